// Byte-level byte-pair encoding: what the tokenizers library computes, for reading.

// Each byte is written as one visible character, as GPT-2 has it: those that cannot be seen get others
const byteNames = (() => {
  const seen = b => b >= 33 && b <= 126 || b >= 161 && b <= 172 || b >= 174;
  let next = 256;
  return [...Array(256).keys()].map(b => String.fromCharCode(seen(b) ? b : next++));
})();
const bytesByName = new Map(byteNames.map((name, b) => [name, b]));

// Words, numbers and signs, each with the space before it; spaces but the last of a run
const pieces = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\p{White_Space}\\p{L}\\p{N}]+"
  + "|\\p{White_Space}+(?!\\P{White_Space})|\\p{White_Space}+";

class Tokenizer {
  constructor({tokens, merges, end}) {          // names by id, pairs of ids, first merge first
    const ids = new Map(tokens.map((name, id) => [name, id]));
    Object.assign(this, {tokens, end, endName: tokens[end], size: tokens.length, known: new Map()});
    this.pattern = new RegExp(pieces, "gu");
    this.byteIds = byteNames.map(name => ids.get(name));
    this.merges = new Map(merges.map(([a, b], rank) =>
      [a * this.size + b, {rank, id: ids.get(tokens[a] + tokens[b])}]));
  }

  encode(text) {                                // ids, without an end-of-text token before them
    return text.split(this.endName).flatMap((part, i) => [
      ...i ? [this.end] : [],
      ...(part.match(this.pattern) ?? []).flatMap(piece => this.piece(piece))]);
  }

  piece(text) {                                 // merge the pair of lowest rank, again and again
    if (this.known.has(text)) return this.known.get(text);
    let ids = [...new TextEncoder().encode(text)].map(b => this.byteIds[b]);
    while (ids.length > 1) {
      let best = null;
      for (let i = 0; i + 1 < ids.length; i++) {
        const merge = this.merges.get(ids[i] * this.size + ids[i + 1]);
        if (merge && !(merge.rank >= best?.rank)) best = merge;
      }
      if (!best) break;
      ids = this.merged(ids, best);
    }
    this.known.set(text, ids);
    return ids;
  }

  merged(ids, best) {                           // every pair that this merge joins, from the left
    const joined = [];
    for (let i = 0; i < ids.length; i++) {
      const merge = this.merges.get(ids[i] * this.size + ids[i + 1]);
      joined.push(merge === best ? best.id : ids[i]);
      if (merge === best) i++;
    }
    return joined;
  }

  bytes(id) {                                   // of a token; none of end-of-text
    return id === this.end ? [] : [...this.tokens[id]].map(name => bytesByName.get(name));
  }

  decode(ids) {
    return new TextDecoder().decode(Uint8Array.from(ids.flatMap(id => this.bytes(id))));
  }
}
