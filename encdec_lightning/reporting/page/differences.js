// Which words of a prediction its reference does not have, and which of the reference are missing.

const SIGN = "[\\p{Script=Han}\\p{Script=Hiragana}\\p{Script=Katakana}\\p{Script=Thai}]";
/** Words, single signs of scripts that write no spaces, and punctuation, each with the space before it. */
const WORDS = new RegExp(`\\s*(?:${SIGN}\\p{M}*|(?:(?!${SIGN})[\\p{L}\\p{M}\\p{N}_'’-])+|[^\\s])`, "gu");
/** Products of lengths above which the order of words is not looked at. */
const TOO_LONG = 4e6;

/** A text's words: as they stand, with the space before each, and as they are compared. */
function wordsOf(text, caseCounts) {
  const written = text.match(WORDS) ?? [];
  const compared = written.map((word) => (caseCounts ? word.trim() : word.trim().toLowerCase()));
  return { written, compared };
}

/** Pieces `[kind, text]` of a prediction beside a reference; the kinds are same, extra and missing. */
function difference(reference, prediction) {
  const [one, two] = [reference.compared, prediction.compared];
  let first = 0;
  while (first < one.length && first < two.length && one[first] === two[first]) first++;
  let [a, b] = [one.length, two.length];
  while (a > first && b > first && one[a - 1] === two[b - 1]) [a, b] = [a - 1, b - 1];
  const same = (from, to) => prediction.written.slice(from, to).map((word) => ["same", word]);
  const between = aligned(one.slice(first, a), two.slice(first, b)).map(([kind, i, j]) =>
    kind === "missing" ? [kind, reference.written[first + i]] : [kind, prediction.written[first + j]],
  );
  return merged([...same(0, first), ...between, ...same(b)]);
}

/** `[kind, place in one, place in two]` along the longest common subsequence; one's own words come before two's. */
function aligned(one, two) {
  if (one.length * two.length > TOO_LONG) return countedAlone(one, two);
  const width = two.length + 1;
  const table = new Uint16Array((one.length + 1) * width); // lengths of common subsequences of the ends
  for (let i = one.length - 1; i >= 0; i--) {
    for (let j = two.length - 1; j >= 0; j--) {
      table[i * width + j] =
        one[i] === two[j]
          ? table[(i + 1) * width + j + 1] + 1
          : Math.max(table[(i + 1) * width + j], table[i * width + j + 1]);
    }
  }
  const found = [];
  let [i, j] = [0, 0];
  while (i < one.length || j < two.length) {
    if (i < one.length && j < two.length && one[i] === two[j]) found.push(["same", i++, j++]);
    else if (j >= two.length || (i < one.length && table[(i + 1) * width + j] >= table[i * width + j + 1]))
      found.push(["missing", i++, j]);
    else found.push(["extra", i, j++]);
  }
  return found;
}

/** The same for very long texts, where a word counts as common wherever it stands; missing words are not told. */
function countedAlone(one, two) {
  const left = new Map();
  for (const word of one) left.set(word, (left.get(word) ?? 0) + 1);
  return two.map((word, j) => {
    const count = left.get(word) ?? 0;
    left.set(word, count - 1);
    return [count > 0 ? "same" : "extra", 0, j];
  });
}

/** Neighbours of one kind as one piece. */
function merged(pieces) {
  const found = [];
  for (const [kind, text] of pieces) {
    const last = found.at(-1);
    if (last?.[0] === kind) last[1] += text;
    else found.push([kind, text]);
  }
  return found;
}

/** The pieces of a prediction beside the reference with which it has most words in common. */
function nearestDifference(references, text, caseCounts) {
  const prediction = wordsOf(text, caseCounts);
  let [best, most] = [null, -1];
  for (const reference of references) {
    const pieces = difference(reference, prediction);
    const common = pieces.reduce((sum, [kind, piece]) => sum + (kind === "same" ? piece.length : 0), 0);
    if (common > most) [best, most] = [pieces, common];
  }
  return best ?? [["same", text]];
}

/** Pieces as nodes; `withMissing` shows the words of the reference that are missing, too. */
function marked(pieces, withMissing) {
  const nodes = [];
  let before = "same";
  for (const [kind, text] of pieces) {
    if (kind === "missing" && !withMissing) continue;
    const space = /^\s+/.exec(text)?.[0] ?? (nodes.length && [kind, before].includes("missing") ? " " : "");
    const word = text.trimStart();
    nodes.push(space, kind === "same" ? word : element(kind === "extra" ? "ins" : "del", {}, word));
    before = kind;
  }
  return nodes;
}
