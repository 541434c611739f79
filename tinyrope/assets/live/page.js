// The page: what is seen and touched. The model runs in two workers, one that tells and one that measures.

const $ = id => document.getElementById(id), data = JSON.parse($("data").textContent);
const make = (tag, into, set = {}) => into.appendChild(Object.assign(document.createElement(tag), set));
const drawing = (tag, into, set) => {
  const element = into.appendChild(document.createElementNS("http://www.w3.org/2000/svg", tag));
  for (const [name, value] of Object.entries(set)) element.setAttribute(name, value);
  return element;
};
const c = data.config, tokenizer = new Tokenizer(data.tokenizer);
const dark = matchMedia("(prefers-color-scheme: dark)");
const still = matchMedia("(prefers-reduced-motion: reduce)");

// ---- all that the page shows follows from these

const hands = untouched(c);
const story = {ids: [], p: [], others: [], rows: [], given: 0};     // one entry a token
const now = {shade: "likely", layer: c.n_layers - 1, head: "mean", query: null, key: -1};
const trained = {asked: "", ids: []};           // what the untouched model told last
let turn = 0, telling = false, tensors, teller, measurer;

const touched = () => JSON.stringify(hands) !== JSON.stringify(untouched(c));
const query = () => now.query ?? Math.max(0, story.rows.length - 1);
const number = (x, digits = 3) => x.toFixed(digits).replace("-", "−");
const percent = p => p >= .0995 ? Math.round(100 * p) + " %" : (100 * p).toFixed(p < .001 ? 2 : 1) + " %";

function name(id) {                             // a token, as a reader can see it
  if (id === tokenizer.end) return "⟨end⟩";
  const bytes = Uint8Array.from(tokenizer.bytes(id)), text = new TextDecoder().decode(bytes);
  return text.includes("\ufffd") ? [...bytes].map(b => `⟨${b.toString(16)}⟩`).join("") : text;
}
const named = id => name(id).replaceAll("\n", "⏎").trim() || "␣";

// ---- the workers

async function inflate(text) {                  // base64 of deflated bytes
  const packed = atob(text.trim()), bytes = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
  const whole = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(whole).arrayBuffer();
}

function hire(buffer, listen) {
  const code = [$("model-code").textContent, $("worker-code").textContent];
  const worker = new Worker(URL.createObjectURL(new Blob(code, {type: "text/javascript"})));
  worker.onmessage = ({data: message}) => listen[message.kind]?.(message);
  worker.onerror = e => complain(`The model could not be started (${e.message}): reload the page, `
    + "or open it in another browser.");
  const passages = data.passages.map(ids => ({ids}));
  worker.postMessage({kind: "load", config: c, tensors: buffer, passages, proofs: data.proofs,
                      end: tokenizer.end});
  return worker;
}

// ---- telling

function settings(ids) {
  const wanted = Math.max(1, Math.round(+$("length").value) || 1);
  const spaced = $("prompt").value.endsWith(" ") && ids.length === story.asked;
  return {temperature: +$("temperature").value, topP: +$("top-p").value,
          seed: Math.round(+$("seed").value) || 0,
          limit: Math.min(ids.length + wanted, 2 * c.seq_len),
          allowed: spaced ? tokenizer.tokens.map(token => token.startsWith(byteNames[32])) : null};
}

function ask() {                                // read the prompt, without its last space
  const text = $("prompt").value;
  if (!text.trim()) return refuse("Type how the story begins, such as: Once upon a time");
  const ids = [tokenizer.end, ...tokenizer.encode(text.replace(/ $/, ""))];
  if (ids.length >= 2 * c.seq_len)
    return refuse(`That is ${ids.length - 1} tokens, and there is room for ${2 * c.seq_len}: shorten it`);
  $("hint").classList.remove("lacks");
  story.asked = ids.length;
  now.query = null;
  tell(ids);
}

function refuse(sentence) {
  $("hint").textContent = sentence;
  $("hint").classList.add("lacks");
  $("status").textContent = sentence;
}

function tell(ids) {
  const wishes = settings(ids);
  Object.assign(story, {given: ids.length, key: JSON.stringify([ids, wishes]), since: null, told: 0});
  telling = true;
  hide();
  $("speed").textContent = "";
  teller.postMessage({kind: "tell", turn: ++turn, ids, settings: wishes, hands});
  due();
}

const told = {
  ready() { $("tell").disabled = false; if (!still.matches) ask(); },
  begun({from, turn: which}) {
    if (which !== turn) return;
    for (const list of [story.ids, story.p, story.others]) list.length = Math.min(list.length, from + 1);
    story.rows.length = Math.min(story.rows.length, from);
    due();
  },
  step({turn: which, t, id, next, p, others, row}) {
    if (which !== turn) return;
    Object.assign(story.ids, {[t]: id});
    story.rows[t] = row;
    story.ids.length = t + 1;
    if (next !== null) {
      story.ids[t + 1] = next; story.p[t + 1] = p; story.others[t + 1] = others;
    }
    if (t + 1 >= story.given) {
      story.since ??= performance.now();
      story.told = t + 1 - story.given;
    }
    due();
  },
  told({turn: which, told: count, speed}) {
    if (which !== turn) return;
    telling = false;
    if (!touched()) Object.assign(trained, {asked: story.key, ids: [...story.ids]});
    const rate = count ? `, ${Math.round(speed)} tokens per second` : "";
    $("speed").textContent = `${count} tokens${rate}`;
    $("status").textContent = `Told ${count} tokens${rate}.`;
    due();
  },
  proved(message) { if (message.turn === turn) compare(message); },
  "proved all": message => { if (message.turn === turn) conclude(); },
};

function showSpeed() {
  const seconds = (performance.now() - story.since) / 1000;
  if (telling && story.told > 5)
    $("speed").textContent = `${story.told} tokens, ${Math.round(story.told / seconds)} per second`;
}

// ---- the text: one button a token

const shown = [];                               // id and nodes of each token

function showText() {
  let same = 0;
  while (same < shown.length && shown[same].id === story.ids[same]) same++;
  while (shown.length > same) shown.pop().nodes.forEach(node => node.remove());
  for (let t = same; t < story.ids.length; t++) shown.push(addToken(t));
  const q = query();
  shown.forEach(({button}, t) => {
    button.tabIndex = t === q ? 0 : -1;
    t === q ? button.setAttribute("aria-current", "true") : button.removeAttribute("aria-current");
    button.classList.toggle("given", t > 0 && t < story.given);
    paint(button, t, q);
  });
}

function addToken(t) {
  const id = story.ids[t], text = name(id), nodes = [], before = shown[t - 1];
  let word = before?.word;
  if (!word || id === tokenizer.end || before.id === tokenizer.end || /^\s/.test(text) || before.broke) {
    if (t > 1 && !before.broke) nodes.push($("text").appendChild(document.createTextNode(" ")));
    word = make("span", $("text"), {className: "word"});
    nodes.push(word);
  }
  const visible = /^\s*$/.test(text) ? named(id) : text.trim(), broke = text.includes("\n");
  const button = make("button", word, {type: "button", textContent: visible});
  button.className = id === tokenizer.end || visible === "⏎" ? "end" : "";
  if (broke) nodes.push(make("br", $("text")));
  nodes.push(button);
  const place = {id, button, word, nodes, broke};
  button.onclick = () => choose(t);
  button.onfocus = () => { if (button.matches(":focus-visible")) offer(t); };
  button.onpointerenter = e => {
    if (now.shade === "attention") point(e, query(), t);
    else if (e.pointerType === "mouse") soon(() => offer(t));
  };
  button.onpointerleave = () => { point(); soon(hide, 260); };
  return place;
}

function paint(button, t, q) {
  const likely = now.shade === "likely", p = story.p[t], seen = t <= q && story.rows[q];
  const rgb = !likely && seen ? shadeOf(weight(q, t)) : null;
  const look = likely ? t < story.given || p === undefined ? "" : `rgba(var(--shade), ${surprise(p)})`
    : rgb ? css(rgb) : "";
  if (button.look !== look) {
    button.look = button.style.background = look;
    button.style.color = rgb ? ink(rgb) : "";
  }
  button.classList.toggle("ahead", !likely && t > q);
  button.classList.toggle("pointed", !likely && t === now.key);
  const chance = p === undefined ? "" : `: ${percent(p)}`;
  button.ariaLabel = named(story.ids[t]) + (likely ? chance : seen ? `: ${percent(weight(q, t))}` : ": not yet read");
}
const surprise = p => (.62 * Math.min(1, -Math.log2(p) / 8)).toFixed(2);

function choose(t) {
  now.query = t === story.rows.length - 1 && telling ? null : t;
  if (now.shade === "likely") offer(t);
  due();
}

$("text").onkeydown = e => {
  const at = shown.findIndex(({button}) => button === document.activeElement);
  const to = {ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: shown.length - 1}[e.key];
  if (at < 0 || e.altKey || e.ctrlKey || e.metaKey) return;
  if (e.key === "ArrowDown" && !$("alternatives").hidden) $("alternatives").querySelector("button")?.focus();
  else if (shown[to]) {
    now.query = to;
    showText();
    shown[to].button.focus();
    due();
  } else return;
  e.preventDefault();
};

// ---- alternatives: what else the model might have said

let waiting, offered = -1;
function soon(what, delay = 90) { clearTimeout(waiting); waiting = setTimeout(what, delay); }
function hide() { clearTimeout(waiting); $("alternatives").hidden = true; offered = -1; }

function offer(t) {
  clearTimeout(waiting);
  const box = $("alternatives"), others = story.others[t];
  if (now.shade !== "likely" || !others || !shown[t]) return hide();
  offered = t;
  box.replaceChildren();
  make("p", box, {textContent: t < story.given ? "given; the model expected" : `${percent(story.p[t])}; choose one to go on from there`});
  for (const [id, p] of others) {
    const button = make("button", box, {type: "button"});
    make("span", button, {textContent: named(id)});
    make("span", button, {textContent: percent(p)});
    button.style.setProperty("--p", 100 * p + "%");
    if (id === story.ids[t]) button.setAttribute("aria-current", "true");
    button.onclick = () => branch(t, id);
  }
  box.hidden = false;
  const token = shown[t].button.getBoundingClientRect(), width = document.documentElement.clientWidth;
  box.style.left = Math.max(8, Math.min(token.left, width - box.offsetWidth - 8)) + scrollX + "px";
  box.style.top = token.bottom + scrollY + 2 + "px";
}

function branch(t, id) {                        // the story goes on from this token
  const ids = [...story.ids.slice(0, t), id];
  now.query = null;
  tell(ids);
}

$("alternatives").onpointerenter = () => clearTimeout(waiting);
$("alternatives").onpointerleave = () => soon(hide, 260);
$("alternatives").onkeydown = e => {
  const all = [...$("alternatives").querySelectorAll("button")], at = all.indexOf(document.activeElement);
  const to = {ArrowDown: at + 1, ArrowUp: at - 1}[e.key];
  if (e.key === "Escape" || to === -1) shown[offered]?.button.focus();
  else if (all[to]) all[to].focus();
  else return;
  e.preventDefault();
};
document.addEventListener("keydown", e => { if (e.key === "Escape") hide(); });
document.addEventListener("pointerdown", e => { if (!e.target.closest("#alternatives, #text")) hide(); });

// ---- colours: little weight is near the page, much weight far from it

const stops = data.colours.map(text => [1, 3, 5].map(i => parseInt(text.slice(i, i + 2), 16)));
function shadeOf(w) {
  const last = stops.length - 1, x = Math.sqrt(w) * last, at = dark.matches ? last - x : x;
  const i = Math.max(0, Math.min(Math.floor(at), last - 1));
  return stops[i].map((a, k) => Math.round(a + (at - i) * (stops[i + 1][k] - a)));
}
const css = rgb => `rgb(${rgb})`;
function ink(rgb) {                             // black or white, whichever has more contrast
  const [r, g, b] = rgb.map(v => v > 10 ? ((v / 255 + .055) / 1.055) ** 2.4 : v / 3295);
  return .2126 * r + .7152 * g + .0722 * b > .179 ? "#000" : "#fff";
}

function showLegend() {
  const likely = now.shade === "likely";
  const colours = likely ? [0, .62].map(a => `rgba(var(--shade), ${a})`)
    : stops.map((_, i) => css(shadeOf((i / (stops.length - 1)) ** 2)));
  $("bar").style.background = `linear-gradient(to right, ${colours})`;
  $("least").textContent = likely ? "certain" : "weight 0";
  $("most-said").textContent = likely ? "unlikely (1 in 256 or less)" : "1 (shaded by its square root)";
  $("bar").ariaLabel = likely ? "Shade of a token, from certain to unlikely"
    : "Shade of a token, from weight 0 to weight 1";
  $("hint").textContent = likely
    ? "Point at a token, or tap it, to see the alternatives; choose one, and the story goes on from there."
    : "Choose the token that looks; the lines lead to what it looks at. Point at a token for its weight.";
  $("text").classList.toggle("attention", !likely);
}

// ---- attention

function weight(q, k) {
  const row = story.rows[q], first = now.layer * c.n_heads;
  if (now.head !== "mean") return row[(first + now.head) * (q + 1) + k];
  let sum = 0;
  for (let h = 0; h < c.n_heads; h++) sum += row[(first + h) * (q + 1) + k];
  return sum / c.n_heads;
}

function showLines() {                          // from the token that looks to those it looks at
  $("text").querySelector("svg")?.remove();
  const q = query();
  if (now.shade !== "attention" || !story.rows[q] || !shown[q]) return;
  const svg = drawing("svg", $("text"), {"aria-hidden": "true"});
  const frame = $("text").getBoundingClientRect();
  const middle = t => {
    const box = shown[t].button.getBoundingClientRect();
    return [box.left + box.width / 2 - frame.left - 1, box.top - frame.top];
  };
  const [x, y] = middle(q);
  const keys = mostSeen(q).filter(k => k !== q), most = weight(q, keys[0] ?? q);
  for (const k of keys) {
    const w = weight(q, k), [a, b] = middle(k);
    const rise = Math.max(-10, Math.min(y, b) - 8 - Math.min(26, Math.abs(x - a) / 8));
    drawing("path", svg, {d: `M${x} ${y} C${x} ${rise} ${a} ${rise} ${a} ${b}`,
                          "stroke-width": 1 + 4 * w, opacity: .1 + .8 * w / most});
  }
}

function mostSeen(q, n = 12) {             // the tokens that a token looks at most, most first
  const weights = story.ids.slice(0, q + 1).map((_, k) => weight(q, k));
  return [...weights.keys()].sort((a, b) => weights[b] - weights[a]).slice(0, n);
}

function showMost() {
  const q = query();
  if (!story.rows[q]) return;
  const keys = mostSeen(q, 5);
  const which = `Layer ${now.layer}, ${now.head === "mean" ? "mean over heads" : "head " + now.head}`;
  $("said").textContent = `${which}: “${named(story.ids[q])}” at position ${q} looks most at`;
  $("most").replaceChildren();
  for (const k of keys) {
    const li = make("li", $("most")), w = weight(q, k);
    make("span", li, {className: "name", textContent: named(story.ids[k])});
    make("span", li, {textContent: (100 * w).toFixed(1) + " %"});
    make("i", li).style.setProperty("--share", 100 * w + "%");
  }
  $("map").ariaLabel = `Matrix of attention weights, ${which.toLowerCase()}, ${story.rows.length} tokens. `
    + "The list beside it says what the current token looks at.";
}

const picture = make("canvas", document.createElement("div"));     // one pixel a weight, row after row
let painted = {key: "", rows: []};

function showPicture(n) {
  const key = JSON.stringify([now.layer, now.head, dark.matches]), g = picture.getContext("2d");
  if (key !== painted.key || n > picture.width) {
    picture.width = picture.height = Math.max(64, 2 ** Math.ceil(Math.log2(n + 1)));
    painted = {key, rows: []};
  }
  for (let q = 0; q < n; q++) {
    if (painted.rows[q] === story.rows[q]) continue;
    const line = g.createImageData(q + 1, 1);
    for (let k = 0; k <= q; k++) line.data.set([...shadeOf(weight(q, k)), 255], 4 * k);
    g.putImageData(line, 0, q);
    painted.rows[q] = story.rows[q];
  }
}

function frame() {                              // pixels: edge of a cell, margins for names
  const n = Math.max(1, story.rows.length), left = 72, cell = ($("map").clientWidth - left) / n;
  const roomy = cell >= 14;
  return {n, left, top: roomy ? 72 : 24, cell, roomy};
}

function showMap() {
  const map = $("map"), {n, left, top, cell} = frame(), q = query(), scale = devicePixelRatio || 1;
  if (!story.rows.length) return;
  showPicture(n);
  const g = map.getContext("2d"), style = getComputedStyle(document.body);
  map.style.height = top + n * cell + 3 + "px";
  map.width = map.clientWidth * scale;
  map.height = map.clientHeight * scale;
  g.scale(scale, scale);
  g.save();
  g.beginPath(); g.moveTo(left, top);           // nothing is drawn of the future
  for (let i = 0; i < n; i++) { g.lineTo(left + i * cell, top + i * cell); g.lineTo(left + (i + 1) * cell, top + i * cell); }
  g.lineTo(left + n * cell, top + n * cell); g.lineTo(left, top + n * cell); g.closePath(); g.clip();
  g.imageSmoothingEnabled = n * scale > 2 * map.width;
  g.drawImage(picture, 0, 0, n, n, left, top, n * cell, n * cell);
  g.restore();
  const box = (strokeStyle, lineWidth, ...edges) => {
    Object.assign(g, {strokeStyle, lineWidth});
    g.strokeRect(...edges);
  };
  const mark = style.getPropertyValue("--mark");
  if (now.key >= 0) box(style.color, 1, left + now.key * cell, top + now.key * cell, cell, (n - now.key) * cell);
  box(mark, 2, left - 1, top + q * cell - 1, (q + 1) * cell + 2, Math.max(cell, 1) + 2);
  nameAxes(g, style, mark);
}

function nameAxes(g, style, mark) {             // all names where there is room, else those pointed at
  const {n, left, top, cell, roomy} = frame(), q = query();
  const write = (i, bold, fillStyle, x, y, turned, textAlign) => {
    g.save();
    g.translate(x, y); g.rotate(turned);
    const font = `${bold ? 600 : 400} 13px system-ui, sans-serif`;
    Object.assign(g, {font, fillStyle, textAlign, textBaseline: "middle"});
    g.fillText(named(story.ids[i]), 0, 0, 64);
    g.restore();
  };
  for (let i = 0; i < n; i++) {
    const at = (i + .5) * cell, here = i === q, there = i === now.key;
    if (roomy || here) write(i, here, here ? mark : style.color, left - 7, top + at, 0, "right");
    if (roomy) write(i, there, style.color, left + at, top - 7, -Math.PI / 2, "left");
    else if (there) write(i, true, style.color, left + at, top - 12, 0, 2 * i < n ? "left" : "right");
  }
}

function cellAt(e) {
  const box = $("map").getBoundingClientRect(), {n, left, top, cell} = frame();
  const key = Math.floor((e.clientX - box.left - left) / cell);
  const q = Math.floor((e.clientY - box.top - top) / cell);
  return q < n && key >= 0 && key <= q ? [q, key] : [];
}

function point(e, q, key = -1) {                // the tip says who looks at whom, and how much
  const tip = $("tip");
  tip.hidden = key < 0 || !story.rows[q];
  if (!tip.hidden) {
    const amount = key <= q ? (100 * weight(q, key)).toFixed(1) + " %" : "not yet read";
    tip.textContent = `${named(story.ids[q])} → ${named(story.ids[key])}: ${amount}`;
    const most = document.documentElement.clientWidth - tip.offsetWidth - 4;
    tip.style.left = Math.max(4, Math.min(e.clientX + 12, most)) + "px";
    tip.style.top = (e.clientY > 50 ? e.clientY - 42 : e.clientY + 22) + "px";
  }
  if (key !== now.key) { now.key = key; due(); }
}
$("map").onpointermove = e => point(e, ...cellAt(e));
$("map").onpointerleave = () => point();
$("map").onclick = e => { const [q] = cellAt(e); if (q !== undefined) { now.query = q; due(); } };

// ---- hands

const pairs = c.head_dim / 2, dials = [], grid = [];
const states = ["works", "not rotated", "off"];
const stateOf = h => hands.off[h] ? 2 : hands.plain[h] ? 1 : 0;

function makeHands() {
  for (let i = 0; i < pairs; i++) {
    const button = make("button", $("dials"), {type: "button"});
    const svg = drawing("svg", button, {viewBox: "0 0 40 40", "aria-hidden": "true"});
    drawing("circle", svg, {cx: 20, cy: 20, r: 18});
    dials.push({button, arrow: drawing("line", svg, {x1: 20, y1: 20, x2: 36, y2: 20})});
    button.onclick = () => { hands.stopped[i] = !hands.stopped[i]; changed(); };
  }
  const band = (text, from, to) => make("button", $("bands"), {type: "button", textContent: text,
    onclick() { hands.stopped = hands.stopped.map((_, i) => i >= from && i < to); changed(); }});
  const half = Math.ceil(pairs / 2);
  make("span", $("bands"), {textContent: "stop"});
  band("none", 0, 0); band("fast half", 0, half); band("slow half", half, pairs); band("all", 0, pairs);
  $("heads").style.setProperty("--heads", c.n_heads);
  for (let l = 0; l < c.n_layers; l++) {
    make("span", $("heads"), {textContent: l, ariaHidden: "true"});
    for (let h = 0; h < c.n_heads; h++) grid.push(headButton(l, h));
  }
  const factors = new Set([2, 4, 8, ...c.rope_factor > 1 ? [c.rope_factor] : []]);
  for (const f of [...factors].sort((a, b) => a - b)) make("option", $("factor"), {value: f, textContent: "× " + f});
}

function headButton(l, h) {
  const button = make("button", $("heads"), {type: "button"}), at = l * c.n_heads + h;
  make("i", button);
  button.onclick = () => {
    const next = (stateOf(at) + 1) % 3;
    hands.plain[at] = next === 1;
    hands.off[at] = next === 2;
    changed();
  };
  return button;
}

function showHands() {
  const {theta} = frequencies(c, hands.method, hands.factor);
  const at = query() + hands.shift;
  dials.forEach(({button, arrow}, i) => {
    const turned = hands.stopped[i] ? 0 : at * theta[i];
    if (!still.matches || !telling) arrow.style.transform = `rotate(${-turned % (2 * Math.PI)}rad)`;
    button.setAttribute("aria-pressed", hands.stopped[i]);
    button.ariaLabel = button.title = `pair ${i}: one turn in ${(2 * Math.PI / theta[i]).toPrecision(3)} tokens`
      + (hands.stopped[i] ? ", stopped" : "");
  });
  grid.forEach((button, at) => {
    button.className = ["works", "plain", "off"][stateOf(at)];
    button.ariaLabel = `layer ${Math.floor(at / c.n_heads)}, head ${at % c.n_heads}: ${states[stateOf(at)]}`;
    button.title = button.ariaLabel;
  });
  $("shift").checked = hands.shift > 0;
  $("method").value = hands.method ?? "";
  if (hands.factor > 1) $("factor").value = hands.factor;
  $("factor").disabled = !hands.method;
  $("reset").disabled = !touched();
}

let soonChanged;
function changed() {                            // story, attention and loss follow
  showHands();
  clearTimeout(soonChanged);
  soonChanged = setTimeout(() => {
    measure();
    if (story.given) tell(story.ids.slice(0, story.given));
  }, 120);
}
$("shift").onchange = () => { hands.shift = $("shift").checked ? 1000 : 0; changed(); };
$("method").onchange = $("factor").onchange = () => {
  hands.method = $("method").value || null;
  hands.factor = hands.method ? +$("factor").value : 1;
  changed();
};
$("reset").onclick = () => { Object.assign(hands, untouched(c)); changed(); };

// ---- what it costs

const lengths = tokenizer.tokens.map((_, id) => tokenizer.bytes(id).length);
let measuring = 0;

function bits(nats, ids, from, to) {            // per byte, of the tokens that nats[from:to] predict
  let sum = 0, bytes = 0;
  for (let t = from; t < to; t++) { sum += nats[t]; bytes += lengths[ids[t + 1]]; }
  return bytes ? sum / Math.LN2 / bytes : 0;
}

function measure() {
  const passage = +$("passage").value;
  measuring++;
  if (touched()) measurer.postMessage({kind: "measure", turn: measuring, passage, hands});
  else showCost(tensors[`passage.${passage}`].values, passage, true);
}

function showCost(nats, passage, whole) {
  const ids = data.passages[passage], before = tensors[`passage.${passage}`].values;
  const cut = Math.min(c.seq_len, ids.length - 1), parts = [["", 0, cut]];
  if (ids.length - 1 > cut) {
    parts[0][0] = `the first ${c.seq_len} tokens, as in training`;
    parts.push([`the ${ids.length - 1 - cut} tokens beyond`, cut, ids.length - 1]);
  }
  $("parts").replaceChildren();
  const sums = parts.map(([title, from, to]) => {
    const end = Math.max(from, Math.min(to, nats.length));
    return {title, old: bits(before, ids, from, to), fair: bits(before, ids, from, end), now: bits(nats, ids, from, end)};
  });
  const most = Math.max(1.5, ...sums.flatMap(({old, now: value}) => [old, value]));
  for (const {title, old, fair, now: value} of sums) {
    const part = make("div", $("parts"), {className: "part"});
    if (title) make("p", part, {className: "soft", textContent: title});
    row(part, "as trained", old, most, "");
    if (touched()) row(part, "now", value, most, value > fair + .0005 ? "now worse" : "now");
  }
  if (whole) showVerdict(sums, nats, before);
}

function row(into, title, value, most, kind) {
  const line = make("div", into, {className: "measure " + kind});
  make("span", line, {textContent: title});
  make("i", line).style.setProperty("--share", 100 * value / most + "%");
  make("span", line, {textContent: value.toFixed(3)});
}

function showVerdict(sums, nats, before) {
  const largest = nats.reduce((most, v, t) => Math.max(most, Math.abs(v - before[t])), 0) / Math.LN2;
  const {old, now: value} = sums.at(-1), more = value - old;
  const tiny = largest ? `at most 10${superscript(Math.ceil(Math.log10(largest)))} bits` : "nothing";
  const said = !touched() ? "Nothing is changed yet."
    : largest < .002 ? `No difference: a token changes by ${tiny}. Only distances count.`
    : `${more < 0 ? "−" : "+"}${Math.abs(more).toFixed(3)} bits per byte`
      + `${sums.length > 1 ? " beyond the context" : ""}: the model predicts ${more > 0 ? "worse" : "better"}.`;
  if ($("cost").textContent !== said) $("cost").textContent = said;
  if (touched()) $("status").textContent = said;
}
const superscript = n => String(n).replace("-", "⁻").replace(/\d/g, d => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d]);

const measured = {measured({turn: which, passage, nats, whole}) {
  if (which === measuring) showCost(nats, passage, whole);
}};
$("passage").onchange = measure;

function showTrained() {                        // what the untouched model told, beside what is told now
  const there = touched() && trained.asked === story.key && !telling;
  const same = there && JSON.stringify(trained.ids) === JSON.stringify(story.ids);
  $("before").hidden = !there;
  if (!there) return;
  $("before").replaceChildren();
  make("b", $("before"), {textContent: same ? "The same story, token by token, as it was trained to tell."
    : "As trained, with the same seed:"});
  const end = trained.ids.at(-1) === tokenizer.end ? -1 : undefined;
  if (!same) $("before").append(tokenizer.decode(trained.ids.slice(1, end)));
}

// ---- the proof

const worst = {logit: 0, tokens: 0, of: 0};
function prove() {
  $("proofs").tBodies[0].replaceChildren();
  $("proofs").hidden = false;
  $("proved").textContent = "Computing …";
  Object.assign(worst, {logit: 0, tokens: 0, of: 0});
  telling = false;
  teller.postMessage({kind: "prove", turn: ++turn});
}

function compare({i, greedy, logits}) {
  const proof = data.proofs[i], kept = tensors[`proof.${i}`].values;
  const same = greedy.filter((id, t) => id === proof.greedy[t]).length;
  const apart = logits.map((z, k) => z.reduce((most, v, id) =>
    Math.max(most, Math.abs(v - kept[k * c.vocab_size + id])), 0));
  const largest = Math.max(...apart), tr = make("tr", $("proofs").tBodies[0]);
  worst.logit = Math.max(worst.logit, largest);
  worst.tokens += same; worst.of += proof.greedy.length;
  make("td", tr, {textContent: proof.prompt + " …"});
  make("td", tr, {textContent: `${same} of ${proof.greedy.length}`});
  make("td", tr, {textContent: largest.toFixed(7)});
}

function conclude() {
  const whole = worst.tokens === worst.of && worst.logit < 1e-3;
  $("proved").textContent = whole
    ? `All ${worst.of} tokens are the same, and no logit differs by more than ${worst.logit.toFixed(7)}.`
    : `${worst.of - worst.tokens} tokens differ, and logits by up to ${worst.logit.toFixed(7)}.`;
}

// ---- one picture for many changes

let asked = false;
function due() {                                // while a story grows, twenty a second leave the model its time
  if (asked) return;
  asked = true;
  setTimeout(() => requestAnimationFrame(() => { asked = false; show(); }), telling ? 50 : 0);
}
function show() {
  $("stop").disabled = !telling;
  showText(); showLines(); showMost(); showMap(); showHands(); showSpeed(); showTrained();
}

function choices(id, values, words = values) {
  const into = make("div", $(id));
  values.forEach((value, i) => {
    const label = make("label", into), checked = value === now[id];
    const radio = make("input", label, {type: "radio", name: id, value, checked});
    make("span", label, {textContent: words[i]});
    radio.onchange = () => { now[id] = value; hide(); showLegend(); due(); };
  });
}

async function start() {
  $("who").textContent = data.name;
  $("shape").textContent = `${(data.parameters / 1e6).toFixed(1)} million parameters in `
    + `${c.n_layers} layers of ${c.n_heads} heads, in 8 bits`;
  $("versions").textContent = `tinyrope ${data.versions.tinyrope}, PyTorch ${data.versions.torch}`;
  $("prompt").value = data.proofs[0].prompt;
  $("length").max = 2 * c.seq_len;
  choices("shade", ["likely", "attention"], ["how likely", "attention"]);
  choices("layer", [...Array(c.n_layers).keys()]);
  choices("head", ["mean", ...Array(c.n_heads).keys()]);
  data.passages.forEach((ids, i) => make("option", $("passage"), {value: i, textContent:
    i ? `a text of ${ids.length} tokens (trained: ${c.seq_len})` : `a validation text of ${ids.length} tokens`}));
  for (const id of ["temperature", "top-p"]) {
    const say = () => { $(id + "-said").textContent = (+$(id).value).toFixed(2); };
    $(id).oninput = say;
    say();
  }
  makeHands();
  showLegend();
  showHands();
  $("tell").disabled = true;
  const buffer = await inflate($("weights").textContent);
  tensors = readTensors(buffer);
  teller = hire(buffer, told);
  measurer = hire(buffer, measured);
  measure();
}

$("ask").onsubmit = e => { e.preventDefault(); ask(); };
$("stop").onclick = () => {
  teller.postMessage({kind: "stop", turn: ++turn});
  telling = false;
  due();
};
$("prove").onclick = prove;
dark.onchange = () => { showLegend(); due(); };
onresize = due;
if (able) start().catch(e => complain(`The model could not be read (${e.message}): the file may be cut off; get it again.`));
