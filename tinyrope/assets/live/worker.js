// Tells stories, measures passages and proves itself, beside the page, so that the page never waits.

let model, passages, proofs, end, current = 0;  // a new request ends the one before it
let past = {ids: [], hands: null, room: 0};     // what the cache holds

const pause = () => new Promise(resolve => setTimeout(resolve));
const post = (message, ...moved) => postMessage(message, moved.map(array => array.buffer));

function random(seed, t) {                      // in [0, 1): one number for each seed and position
  let a = (seed ^ Math.imul(t + 1, 0x9E3779B9)) + 0x6D2B79F5 | 0;
  a = Math.imul(a ^ a >>> 15, a | 1);
  a ^= a + Math.imul(a ^ a >>> 7, a | 61);
  return ((a ^ a >>> 14) >>> 0) / 2 ** 32;
}

function chances(logits, temperature = 1) {     // probabilities
  const p = Float64Array.from(logits, z => z / temperature);
  softmax(p, 0, p.length);
  return p;
}

const likeliest = logits => logits.reduce((best, z, id) => z > logits[best] ? id : best, 0);

function leastKept(p, topP) {                   // the smallest of the likeliest that sum to top-p
  const sorted = Float64Array.from(p).sort();
  let i = sorted.length, sum = 0;
  while (i && sum < topP) sum += sorted[--i];
  return sorted[i];
}

function draw(logits, {temperature, topP, allowed}, u) {
  const z = allowed ? logits.map((value, id) => allowed[id] ? value : -Infinity) : logits;
  if (temperature === 0) return likeliest(z);
  const p = chances(z, temperature), least = topP < 1 ? leastKept(p, topP) : 0;
  const kept = p.map(v => v >= least ? v : 0), total = kept.reduce((a, b) => a + b);
  let left = u * total, last = 0;
  for (let id = 0; id < kept.length; id++) if (kept[id]) {
    last = id;
    if ((left -= kept[id]) < 0) break;
  }
  return last;
}

function first(p, n) {                          // the n likeliest, as [id, probability]
  const top = [];
  for (let id = 0; id < p.length; id++) if (top.length < n || p[id] > top[n - 1][1]) {
    let at = top.length;
    while (at && top[at - 1][1] < p[id]) at--;
    top.splice(at, 0, [id, p[id]]);
    top.length = Math.min(top.length, n);
  }
  return top;
}

function begin(ids, hands, room) {              // returns how many positions are in the cache already
  let same = 0;
  if (JSON.stringify(past.hands) === JSON.stringify(hands) && room <= past.room)
    while (same < Math.min(past.ids.length, ids.length - 1) && past.ids[same] === ids[same]) same++;
  else {
    model.begin(hands, room);
    past = {hands, room};
  }
  past.ids = ids.slice(0, same);
  return same;
}

const work = {
  load({config, tensors, ...rest}) {
    ({passages, proofs, end} = rest);
    model = new Model(config, readTensors(tensors));
    post({kind: "ready"});
  },

  async tell({turn, ids, settings, hands}) {
    const given = ids.length, limit = Math.max(given, settings.limit);
    const from = begin(ids, hands, limit);
    post({kind: "begun", turn, from});
    let since = performance.now(), rested = since;
    for (let t = from; t < ids.length; t++) {
      const logits = model.step(ids[t], t), p = chances(logits);
      past.ids.push(ids[t]);
      if (t + 1 === given) since = performance.now();           // from here on it tells
      const ended = t > 0 && ids[t] === end;
      if (t + 1 >= given && t + 1 < limit && !ended) {
        const narrowed = t + 1 === given ? settings : {...settings, allowed: null};
        ids.push(draw(logits, narrowed, random(settings.seed, t)));
      }
      const next = ids[t + 1] ?? null, row = model.looks(t);
      post({kind: "step", turn, t, id: ids[t], next, p: next === null ? null : p[next],
            others: first(p, 8), row}, row);
      if (performance.now() - rested > 30) {
        await pause();
        if (turn !== current) return;
        rested = performance.now();
      }
    }
    const seconds = (performance.now() - since) / 1000, told = ids.length - given;
    post({kind: "told", turn, told, speed: told / seconds, full: ids.length === limit});
  },

  async measure({turn, passage, hands}) {       // nats of each token of a passage
    const {ids} = passages[passage], nats = [];
    model.begin(hands, ids.length);
    past.hands = null;
    let rested = performance.now();
    for (let t = 0; t + 1 < ids.length; t++) {
      const logits = model.step(ids[t], t), most = logits.reduce((a, b) => Math.max(a, b));
      const sum = logits.reduce((total, z) => total + Math.exp(z - most), 0);
      nats.push(most + Math.log(sum) - logits[ids[t + 1]]);
      if (performance.now() - rested > 60) {
        post({kind: "measured", turn, passage, nats, whole: false});
        await pause();
        if (turn !== current) return;
        rested = performance.now();
      }
    }
    post({kind: "measured", turn, passage, nats, whole: true});
  },

  async prove({turn}) {                         // greedy text and logits, beside Python's
    past.hands = null;
    for (const [i, proof] of proofs.entries()) {
      const ids = [...proof.ids], logits = [];
      model.begin(untouched(model.config), ids.length + proof.greedy.length);
      for (let t = 0; t < ids.length; t++) {
        const z = model.step(ids[t], t), told = ids.length - proof.ids.length;
        if (t + 1 < ids.length) continue;
        if (told === 0 || told === proof.greedy.length - 1) logits.push(z.slice());
        if (told < proof.greedy.length) ids.push(likeliest(z));
        if (told === proof.greedy.length - 1) break;
      }
      post({kind: "proved", turn, i, greedy: ids.slice(proof.ids.length), logits});
      await pause();
      if (turn !== current) return;
    }
    post({kind: "proved all", turn});
  },
};

onmessage = ({data}) => {
  current = data.turn ?? current;
  work[data.kind]?.(data);
};
