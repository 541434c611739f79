// A language model of the Llama form, one token at a time: what tinyrope.model computes, for reading.

// ---- weights: a safetensors file, its matrices in 8 bits with a scale for each row

function readTensors(buffer) {                  // name → {shape, values}
  const length = Number(new DataView(buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 8, length)));
  const found = {}, kinds = {F32: Float32Array, I8: Int8Array, I32: Int32Array};
  for (const [name, {dtype, shape, data_offsets: [start, end]}] of Object.entries(header)) {
    const kind = kinds[dtype];
    const values = new kind(buffer, 8 + length + start, (end - start) / kind.BYTES_PER_ELEMENT);
    found[name] = {shape, values};
  }
  return found;
}

function dequantise(tensors, name) {            // a matrix in 32 bits: row r is scale[r] · bytes[r]
  const {shape: [rows, cols], values: bytes} = tensors[name], scales = tensors[name + ".scale"].values;
  const values = new Float32Array(rows * cols);
  for (let i = 0; i < values.length; i++) values[i] = bytes[i] * scales[Math.floor(i / cols)];
  return {rows, cols, values};
}

// ---- arithmetic

function multiply({rows, cols, values: w}, x, y) {      // y = W x, four rows at a time
  let r = 0;
  for (; r + 3 < rows; r += 4) {
    let a = 0, b = 0, c = 0, d = 0;
    for (let j = 0, i = r * cols; j < cols; j++, i++) {
      const v = x[j];
      a += w[i] * v; b += w[i + cols] * v; c += w[i + 2 * cols] * v; d += w[i + 3 * cols] * v;
    }
    y[r] = a; y[r + 1] = b; y[r + 2] = c; y[r + 3] = d;
  }
  for (; r < rows; r++) {                               // what is left of a number not divisible by 4
    y[r] = 0;
    for (let j = 0; j < cols; j++) y[r] += w[r * cols + j] * x[j];
  }
}

function normalise(x, gain, y) {                        // RMSNorm
  let squares = 0;
  for (const v of x) squares += v * v;
  const scale = 1 / Math.sqrt(squares / x.length + 1e-5);
  for (let j = 0; j < x.length; j++) y[j] = x[j] * scale * gain[j];
}

function softmax(scores, start, end) {                  // in place
  let most = -Infinity, sum = 0;
  for (let i = start; i < end; i++) most = Math.max(most, scores[i]);
  for (let i = start; i < end; i++) sum += scores[i] = Math.exp(scores[i] - most);
  for (let i = start; i < end; i++) scores[i] /= sum;
}

const silu = x => x / (1 + Math.exp(-x));

// ---- rotary embeddings, and the hands that change them

const untouched = c => ({
  stopped: Array(c.head_dim / 2).fill(false),           // pairs that are not rotated, in any head
  plain: Array(c.n_layers * c.n_heads).fill(false),     // heads that rotate nothing
  off: Array(c.n_layers * c.n_heads).fill(false),       // heads whose output is dropped
  shift: 0,                                             // added to every position
  method: c.rope_method, factor: c.rope_factor,         // stretched context: linear, ntk, yarn
});

function frequencies(c, method, factor) {               // radians per token, fastest pair first
  const pairs = [...Array(c.head_dim / 2).keys()], width = c.head_dim;
  const plain = base => pairs.map(i => Math.fround(1 / base ** (2 * i / width)));
  const normal = plain(c.rope_base);
  if (method === "linear") return {theta: normal.map(f => f / factor), scale: 1};
  if (method === "ntk") {
    const base = c.rope_base * factor ** (width / Math.max(width - 2, 1));
    return {theta: plain(base), scale: 1};
  }
  if (method !== "yarn") return {theta: normal, scale: 1};
  const turning = turns => width * Math.log(c.trained_len / (turns * 2 * Math.PI))
    / (2 * Math.log(c.rope_base));                      // the pair that turns so often in training
  const low = Math.max(Math.floor(turning(32)), 0);
  const high = Math.min(Math.ceil(turning(1)), width - 1);
  const ramp = i => Math.min(1, Math.max(0, (i - low) / (high - low || .001)));
  const theta = normal.map((f, i) => f * (1 - ramp(i)) + f / factor * ramp(i));
  return {theta, scale: .1 * Math.log(factor) + 1};
}

function ropeTables(c, hands, room) {                   // cos and sin, (room, pairs)
  const {theta, scale} = frequencies(c, hands.method, hands.factor), pairs = theta.length;
  const cos = new Float32Array(room * pairs).fill(1), sin = new Float32Array(room * pairs);
  for (let t = 0, n = 0; t < room; t++) for (let i = 0; i < pairs; i++, n++) {
    if (hands.stopped[i]) continue;
    const angle = Math.fround((t + hands.shift) * Math.fround(theta[i]));
    cos[n] = Math.cos(angle) * scale;
    sin[n] = Math.sin(angle) * scale;
  }
  return {cos, sin};
}

// ---- the model

class Model {
  constructor(config, tensors) {
    const c = this.config = config, matrix = name => dequantise(tensors, name);
    this.embedding = matrix("embedding.weight");
    this.head = c.tied ? this.embedding : matrix("head.weight");
    this.norm = tensors["norm.weight"].values;
    this.blocks = [...Array(c.n_layers).keys()].map(l => ({
      attentionNorm: tensors[`blocks.${l}.attention_norm.weight`].values,
      qkv: matrix(`blocks.${l}.attention.qkv.weight`),
      out: matrix(`blocks.${l}.attention.out.weight`),
      mlpNorm: tensors[`blocks.${l}.mlp_norm.weight`].values,
      gateUp: matrix(`blocks.${l}.mlp.gate_up.weight`),
      down: matrix(`blocks.${l}.mlp.down.weight`),
    }));
    const numbers = n => new Float32Array(n);
    const wide = (c.n_heads + 2 * c.kv_heads) * c.head_dim;
    this.x = numbers(c.dim); this.normed = numbers(c.dim); this.added = numbers(c.dim);
    this.qkv = numbers(wide); this.rotated = numbers(wide); this.mixed = numbers(c.dim);
    this.gateUp = numbers(2 * c.mlp_dim); this.gated = numbers(c.mlp_dim);
    this.logits = numbers(c.vocab_size);
  }

  begin(hands, room) {                          // an empty cache with room for so many tokens
    const c = this.config, size = room * c.kv_heads * c.head_dim;
    Object.assign(this, {hands, room, rope: ropeTables(c, hands, room)});
    for (const b of this.blocks)
      b.cache = {k: new Float32Array(size), plain: new Float32Array(size), v: new Float32Array(size)};
    this.attention = new Float32Array(c.n_layers * c.n_heads * room);
  }

  step(token, t, wanted = true) {               // read the token at position t; logits if wanted
    const {dim} = this.config, {x, normed, added} = this;
    x.set(this.embedding.values.subarray(token * dim, (token + 1) * dim));
    const add = () => { for (let j = 0; j < dim; j++) x[j] += added[j]; };
    this.blocks.forEach((block, layer) => {
      normalise(x, block.attentionNorm, normed);
      this.attend(block, layer, t);             // from normed to added
      add();
      normalise(x, block.mlpNorm, normed);
      this.think(block);                        // from normed to added
      add();
    });
    if (!wanted) return null;
    normalise(x, this.norm, normed);
    multiply(this.head, normed, this.logits);
    return this.logits;
  }

  think({gateUp, down}) {                       // SwiGLU
    const width = this.gated.length;
    multiply(gateUp, this.normed, this.gateUp);
    for (let j = 0; j < width; j++)
      this.gated[j] = silu(this.gateUp[j]) * this.gateUp[width + j];
    multiply(down, this.gated, this.added);
  }

  rotate(t) {                                   // the queries and keys of position t, half-split pairs
    const c = this.config, pairs = c.head_dim / 2, {cos, sin} = this.rope;
    for (let head = 0; head < c.n_heads + c.kv_heads; head++)
      for (let i = 0, n = head * c.head_dim; i < pairs; i++, n++) {
        const a = this.qkv[n], b = this.qkv[n + pairs];
        const cosine = cos[t * pairs + i], sine = sin[t * pairs + i];
        this.rotated[n] = a * cosine - b * sine;
        this.rotated[n + pairs] = a * sine + b * cosine;
      }
  }

  attend({qkv, out, cache}, layer, t) {
    const c = this.config, width = c.head_dim, row = c.kv_heads * width, keys = c.n_heads * width;
    multiply(qkv, this.normed, this.qkv);
    this.rotate(t);
    cache.k.set(this.rotated.subarray(keys, keys + row), t * row);
    cache.plain.set(this.qkv.subarray(keys, keys + row), t * row);
    cache.v.set(this.qkv.subarray(keys + row), t * row);
    this.mixed.fill(0);
    for (let h = 0; h < c.n_heads; h++) {
      const shared = Math.floor(h * c.kv_heads / c.n_heads) * width;    // the keys of its group
      this.weigh(cache, layer * c.n_heads + h, h * width, shared, t);
      if (!this.hands.off[layer * c.n_heads + h])
        this.mix(cache.v, layer * c.n_heads + h, h * width, shared, t);
    }
    multiply(out, this.mixed, this.added);
  }

  weigh(cache, head, at, shared, t) {           // softmax(q·k / √head_dim) over all tokens up to t
    const {head_dim: width, kv_heads} = this.config, plain = this.hands.plain[head];
    const q = plain ? this.qkv : this.rotated, k = plain ? cache.plain : cache.k;
    const start = head * this.room, scale = 1 / Math.sqrt(width);
    for (let s = 0; s <= t; s++) {
      let sum = 0;
      for (let j = 0, n = s * kv_heads * width + shared; j < width; j++, n++) sum += q[at + j] * k[n];
      this.attention[start + s] = sum * scale;
    }
    softmax(this.attention, start, start + t + 1);
  }

  mix(v, head, at, shared, t) {                 // the weighted mean of the values
    const {head_dim: width, kv_heads} = this.config, start = head * this.room;
    for (let s = 0; s <= t; s++) {
      const weight = this.attention[start + s];
      for (let j = 0, n = s * kv_heads * width + shared; j < width; j++, n++)
        this.mixed[at + j] += weight * v[n];
    }
  }

  looks(t) {                                    // what position t looks at: (layer, head, key)
    const heads = this.config.n_layers * this.config.n_heads, all = new Float32Array(heads * (t + 1));
    for (let h = 0; h < heads; h++)
      all.set(this.attention.subarray(h * this.room, h * this.room + t + 1), h * (t + 1));
    return all;
  }
}
