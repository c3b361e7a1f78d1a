// The examples side by side: the form above them, and a card for each in the virtual list.

/** Characters of a source above which it is folded. */
const LONG_SOURCE = 500;

class Examples {
  constructor() {
    this.list = new VirtualList(
      byId("list"),
      (place) => this.card(place),
      (place) => this.estimate(place),
      () => highlight(byId("query").value.trim()),
    );
    this.unfolded = new Set();
    const form = byId("filters");
    form.addEventListener("input", () => this.update());
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(() => this.update()));
  }

  /** Show another test set. */
  open(data, shown) {
    const examples = data.examples;
    Object.assign(this, { runs: data.runs, shown, references: new Map() });
    this.all = { examples, searchable: searchable(examples), exact: examples.map(exactOf) };
    this.unfolded.clear();
    const notes = [...data.notes, `ROUGE-L of one example: ${data.signature}. Exact match: word for word.`];
    byId("examples-notes").replaceChildren(...notes.map((note) => element("li", {}, note)));
    const whose = [new Option("some shown run", "some"), new Option("every shown run", "every")];
    byId("whose").replaceChildren(...whose, ...data.runs.map((run, number) => new Option(run.label, number)));
    byId("filters").hidden = examples.length === 0;
    byId("list").hidden = examples.length === 0;
    byId("examples-wait").hidden = examples.length > 0;
    byId("examples-wait").textContent = "No run has predictions for this test set yet.";
    this.update();
  }

  /** Show the predictions of these runs alone. */
  show(shown) {
    this.shown = shown;
    this.update();
  }

  wanted() {
    const value = (id) => byId(id).value;
    const number = (id, otherwise) => (Number.isNaN(byId(id).valueAsNumber) ? otherwise : byId(id).valueAsNumber);
    return {
      query: value("query"),
      where: value("where"),
      sort: value("sort"),
      least: number("least", 0),
      most: number("most", 100),
      whose: value("whose"),
      exact: value("exact"),
      differ: byId("differ").checked,
    };
  }

  update() {
    if (!this.all) return;
    const places = chosen(this.all, this.wanted(), this.shown);
    const total = this.all.examples.length;
    byId("count").textContent = total ? `${places.length.toLocaleString("en")} of ${plural(total, "example", "examples")}` : "";
    this.list.set(places);
  }

  /** A guess of a card's height, from the lengths of its texts. */
  estimate(place) {
    const [, source, references, predictions] = this.all.examples[place];
    const columns = Math.max(1, Math.floor(byId("list").clientWidth / 340));
    const lines = (text) => 1 + Math.ceil((text?.length ?? 0) / 44);
    const long = this.shown.reduce((most, run) => Math.max(most, lines(predictions[run])), 0);
    const wide = Math.ceil(Math.min(source.length, 1000) / (44 * columns));
    return 110 + 22 * (wide + references.length * 2) + Math.ceil(this.shown.length / columns) * (40 + 22 * long);
  }

  card(place) {
    const [id, source, references, predictions, scores] = this.all.examples[place];
    const caseCounts = byId("case").checked;
    const withMissing = byId("missing").checked;
    const words = references.map((text) => wordsOf(text, caseCounts));
    const title = element("h3", { id: `example-${place}` }, `Example ${(place + 1).toLocaleString("en")}`, " ", element("small", {}, id));
    const several = references.length > 1;
    const right = references.map((text, number) => this.text(several ? `Reference ${number + 1}` : "Reference", [text], "reference"));
    const outputs = this.shown.map((run) => this.prediction(place, run, predictions[run], scores[run], words, caseCounts, withMissing));
    return element(
      "article",
      { className: "card", "aria-labelledby": title.id },
      title,
      this.source(place, source),
      element("div", { className: "texts" }, ...right),
      element("div", { className: "texts" }, ...outputs),
    );
  }

  source(place, text) {
    if (text.length <= LONG_SOURCE) return this.text("Source", [text], "source");
    const fold = element("details", { open: this.unfolded.has(place) });
    fold.append(
      element("summary", {}, element("b", {}, "Source"), ` ${plural(text.length, "character", "characters")}: ${text.slice(0, 160)}…`),
      element("p", { dir: "auto" }, text),
    );
    fold.addEventListener("toggle", () => (fold.open ? this.unfolded.add(place) : this.unfolded.delete(place)));
    return element("div", { className: "text source" }, fold);
  }

  prediction(place, run, text, score, words, caseCounts, withMissing) {
    const { label } = this.runs[run];
    if (text === null) return this.text(label, [element("em", {}, "no prediction")], "prediction");
    const told = this.all.exact[place][run] ? " · exact match" : "";
    const nodes = text === "" ? [element("em", {}, "an empty text")] : marked(nearestDifference(words, text, caseCounts), withMissing);
    return this.text(label, nodes, "prediction", `ROUGE-L ${score.toFixed(1)}${told}`);
  }

  text(label, nodes, kind, more = "") {
    const head = element("h4", {}, label, more && element("span", { className: "score" }, more));
    return element("div", { className: `text ${kind}` }, head, element("p", { dir: "auto" }, ...nodes));
  }
}

/** Mark what was searched for in the cards that are in the page, where the browser can. */
function highlight(query) {
  if (!("highlights" in CSS)) return;
  CSS.highlights.delete("search");
  if (query === "") return;
  const small = query.toLowerCase();
  const ranges = [];
  const walker = document.createTreeWalker(byId("list"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.toLowerCase();
    if (text.length !== walker.currentNode.length) continue; // small letters of another length, as in Turkish
    for (let at = text.indexOf(small); at >= 0; at = text.indexOf(small, at + small.length)) {
      const range = new Range();
      range.setStart(walker.currentNode, at);
      range.setEnd(walker.currentNode, at + small.length);
      ranges.push(range);
    }
  }
  CSS.highlights.set("search", new Highlight(...ranges));
}
