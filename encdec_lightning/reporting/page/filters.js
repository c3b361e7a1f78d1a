// Which examples are wanted, and in which order: searched and sorted over all texts at once.

/** The texts of examples in small letters, made once: `[source, references, predictions]` of each. */
function searchable(examples) {
  return examples.map(([id, source, references, predictions]) => [
    `${id}\n${source}`.toLowerCase(),
    references.join("\n").toLowerCase(),
    predictions.map((text) => (text ?? "").toLowerCase()),
  ]);
}

/** Whether a text is in an example, where it is looked for. */
function isFound([source, references, predictions], query, where, shown) {
  if ((where === "all" || where === "source") && source.includes(query)) return true;
  if ((where === "all" || where === "references") && references.includes(query)) return true;
  return (where === "all" || where === "predictions") && shown.some((run) => predictions[run].includes(query));
}

/** A text with all white space as single spaces: what exact match compares. */
const collapsed = (text) => text.trim().split(/\s+/).join(" ");

/** Whether each run's prediction is a reference, word for word. */
function exactOf([, , references, predictions]) {
  const right = references.map(collapsed);
  return predictions.map((text) => text !== null && right.includes(collapsed(text)));
}

function scoreFits(scores, wanted, shown) {
  if (wanted.least <= 0 && wanted.most >= 100) return true;
  const fits = (run) => scores[run] !== null && wanted.least <= scores[run] && scores[run] <= wanted.most;
  if (wanted.whose === "some") return shown.some(fits);
  if (wanted.whose === "every") return shown.every(fits);
  return fits(Number(wanted.whose));
}

function exactFits(exact, wanted, shown) {
  if (wanted === "every") return shown.length > 0 && shown.every((run) => exact[run]);
  if (wanted === "some") return shown.some((run) => exact[run]);
  return wanted !== "none" || !shown.some((run) => exact[run]);
}

function differs(predictions, shown) {
  return shown.some((run) => predictions[run] !== predictions[shown[0]]);
}

/** The places of the examples that fit `wanted`, in its order; `shown` are the numbers of the runs that count. */
function chosen(all, wanted, shown) {
  const query = wanted.query.trim().toLowerCase();
  const found = [];
  all.examples.forEach((example, place) => {
    const fits =
      (query === "" || isFound(all.searchable[place], query, wanted.where, shown)) &&
      scoreFits(example[4], wanted, shown) &&
      exactFits(all.exact[place], wanted.exact, shown) &&
      (!wanted.differ || differs(example[3], shown));
    if (fits) found.push(place);
  });
  return sorted(all.examples, found, wanted.sort, shown);
}

function sorted(examples, places, order, shown) {
  const scores = (place) => shown.map((run) => examples[place][4][run]).filter((score) => score !== null);
  const mean = (place) => {
    const own = scores(place);
    return own.length ? own.reduce((sum, each) => sum + each, 0) / own.length : null;
  };
  const spread = (place) => (scores(place).length ? Math.max(...scores(place)) - Math.min(...scores(place)) : null);
  const length = (place) => examples[place][1].length;
  const keys = { low: [mean, 1], high: [mean, -1], spread: [spread, -1], short: [length, 1], long: [length, -1] };
  if (!(order in keys)) return places;
  const [key, sign] = keys[order];
  const keyed = places.map((place) => [key(place), place]);
  keyed.sort(([one], [two]) => {
    if (one === null || two === null) return (one === null) - (two === null);
    return sign * (one - two);
  });
  return keyed.map(([, place]) => place);
}
