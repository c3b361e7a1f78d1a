// The two plots: learning curves, and final scores against sizes. Plotly draws; the tables below say the same in numbers.

const COLOURS = {
  light: ["#1f6fb4", "#b35900", "#1b7f3b", "#c5283d", "#7a4fb5", "#7d5a3c", "#c2408f", "#0b7f8a"],
  dark: ["#6cb2f0", "#f2a14a", "#63c784", "#ff7f86", "#bd9df2", "#c9a27e", "#f08fcb", "#55c8d2"],
};
const DASHES = ["solid", "dash", "dot", "dashdot"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down"];
const GRID = "rgba(128, 128, 128, 0.3)";
const STEPS = { name: "step", title: "optimizer steps" };
const NARROW = matchMedia("(max-width: 700px)");
/** Points of a curve up to which each is marked. */
const MARKED = 60;
/** Characters of a row's name above which the legend stands below a plot. */
const LONG_NAME = 45;

/** How a row looks, by its place: no two of 32 rows have the same colour and dash. */
function styleOf(row) {
  const colours = COLOURS[isDark() ? "dark" : "light"];
  const round = Math.floor(row / colours.length);
  return {
    color: colours[row % colours.length],
    dash: DASHES[(row + round) % DASHES.length],
    symbol: SYMBOLS[(row + round) % SYMBOLS.length],
  };
}

/**
 * The value of an axis at a logged step, which Lightning counts from 0: between two logged steps on the line between
 * them, after the last one by the mean speed.
 */
function valueAt([steps, values], step) {
  const after = steps.findIndex((each) => each >= step);
  if (after < 0) return (values.at(-1) * (step + 1)) / (steps.at(-1) + 1);
  const [low, below] = after ? [steps[after - 1], values[after - 1]] : [-1, 0];
  return below + ((values[after] - below) * (step - low)) / (steps[after] - low);
}

function numbersTable(caption, header, rows) {
  const shown = (value) => (typeof value === "number" ? value.toLocaleString("en", { maximumFractionDigits: 4 }) : (value ?? "-"));
  const head = header.map((text, place) => element("th", { scope: "col", className: place ? "number" : "" }, text));
  const lines = rows.map(([first, ...rest]) => {
    const cells = rest.map((value) => element("td", { className: "number" }, shown(value)));
    return element("tr", {}, element("th", { scope: "row" }, first), ...cells);
  });
  const body = [element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...lines)];
  return element("table", {}, element("caption", {}, element("span", {}, caption)), ...body);
}

class Plots {
  constructor() {
    for (const id of ["curves-y", "curves-x", "curves-log", "sizes-y", "sizes-x"]) byId(id).addEventListener("change", () => this.draw());
    for (const id of ["curves", "sizes"]) {
      const save = byId(id).querySelector(".save");
      save.addEventListener("click", () => Plotly.downloadImage(this.place(id), { format: "svg", filename: id, width: 900, height: 500 }));
    }
    NARROW.addEventListener("change", () => this.draw()); // within one form of the page, Plotly follows the width
  }

  place(id) {
    return byId(id).querySelector(".plot");
  }

  /** Show another test set. */
  open(data, shown) {
    Object.assign(this, { runs: data.runs, data: data.plots, shown });
    const fill = (id, options) => {
      const before = byId(id).selectedOptions[0]?.textContent;
      byId(id).replaceChildren(...options.map(([text, value]) => new Option(text, value, false, text === before)));
    };
    fill("curves-y", this.data.logged.map((name) => [name, name]));
    fill("curves-x", [STEPS, ...this.data.axes].map(({ name, title }) => [title, name]));
    fill("sizes-y", this.data.scores.map((name) => [name, name]));
    fill("sizes-x", this.data.sizes.map(({ title }, number) => [title, number]));
    byId("curves").hidden = this.data.logged.length === 0;
    byId("sizes").hidden = this.data.sizes.length === 0 || this.data.scores.length === 0;
    const missing = [];
    if (byId("curves").hidden) missing.push("No run has a log of the csv logger, so there are no learning curves.");
    if (byId("sizes").hidden) missing.push(...this.data.sizes_left_out, "Scores are drawn against what differs between runs.");
    byId("plots-wait").hidden = missing.length === 0;
    byId("plots-wait").textContent = missing.join(" ");
    this.draw();
  }

  /** Show these runs alone. */
  show(shown) {
    this.shown = shown;
    this.draw();
  }

  draw() {
    if (!this.data) return;
    if (!byId("curves").hidden) this.drawCurves();
    if (!byId("sizes").hidden) this.drawSizes();
  }

  drawCurves() {
    const [name, axis] = [byId("curves-y").value, byId("curves-x").value];
    const title = byId("curves-x").selectedOptions[0].textContent;
    const named = new Set();
    const [traces, numbers, without] = [[], [], []];
    for (const run of this.shown) {
      const { label, row } = this.runs[run];
      const [steps, values] = this.data.curves[run][name] ?? [[], []];
      const ofAxis = axis === STEPS.name ? null : this.data.of_axes[run][axis];
      if (!steps.length || ofAxis === undefined) {
        without.push(label);
        continue;
      }
      const x = ofAxis ? steps.map((step) => valueAt(ofAxis, step)) : steps;
      const { color, dash, symbol } = styleOf(this.data.rows[row].place);
      traces.push({
        x,
        y: values,
        name: this.data.rows[row].label,
        text: label,
        hovertemplate: "%{text}<br>%{x:,.6~g}: %{y:.6~g}<extra></extra>",
        legendgroup: String(row),
        showlegend: !named.has(row),
        mode: values.length <= MARKED ? "lines+markers" : "lines",
        line: { color, dash, width: 1.75 },
        marker: { color, symbol, size: 7 },
      });
      named.add(row);
      const least = values.reduce((best, value, place) => (value < values[best] ? place : best), 0);
      const most = values.reduce((best, value, place) => (value > values[best] ? place : best), 0);
      numbers.push([label, values.length, values[least], x[least], values[most], x[most], values.at(-1), x.at(-1)]);
    }
    const type = byId("curves-log").checked ? "log" : "linear";
    this.plot("curves", traces, { xaxis: { title: { text: title }, rangemode: "tozero" }, yaxis: { title: { text: name }, type } });
    const lacking = axis === STEPS.name ? name : `${name} or the ${title}`;
    const notes = without.length ? [`Not drawn, for their logs lack ${lacking}: ${without.join("; ")}.`] : [];
    notes.push(...this.data.axes_left_out);
    if (axis !== STEPS.name) notes.push(`Between two logged steps the ${title} are interpolated.`);
    const header = ["run", "points", "lowest", `at ${title}`, "highest", `at ${title}`, "last", `at ${title}`];
    this.tell("curves", notes, numbersTable(`${name} against ${title}`, header, numbers));
    this.name("curves", `Learning curves of ${plural(traces.length, "run", "runs")}: ${name} against ${title}. The numbers are in the table below.`);
  }

  drawSizes() {
    const [name, axis] = [byId("sizes-y").value, this.data.sizes[byId("sizes-x").value]];
    const [traces, numbers, without] = [[], [], []];
    const byRow = new Map();
    for (const run of this.shown) {
      const { label, row } = this.runs[run];
      const [x, y] = [axis.values[run], this.data.points[name][run]];
      if (x === null || y === null) without.push(label);
      else byRow.set(row, [...(byRow.get(row) ?? []), { label, x, y }]);
    }
    const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
    for (const [row, points] of byRow) {
      const { color, symbol } = styleOf(this.data.rows[row].place);
      const [x, y] = [points.map((point) => point.x), points.map((point) => point.y)];
      const common = { name: this.data.rows[row].label, legendgroup: String(row), mode: "markers", hovertemplate: "%{text}<br>%{x:,.6~g}: %{y:.2f}<extra></extra>" };
      const several = points.length > 1;
      if (several)
        traces.push({ ...common, x, y, text: points.map((point) => point.label), showlegend: false, marker: { color, symbol, size: 7 } });
      const text = several ? [`${common.name}, mean of ${points.length} seeds`] : [points[0].label];
      const big = several ? { color, symbol: `${symbol}-open`, size: 16, line: { width: 2 } } : { color, symbol, size: 10 };
      traces.push({ ...common, x: [mean(x)], y: [mean(y)], text, marker: big });
      numbers.push(...points.map((point) => [point.label, point.x, point.y]));
      if (several) numbers.push([text[0], mean(x), mean(y)]);
    }
    const baselines = this.data.rows.filter((row) => row.baseline && name in row.scores);
    const grey = getComputedStyle(byId("sizes").querySelector(".note")).color;
    const along = [...byRow.values()].flat().map((point) => point.x);
    const ends = [Math.min(...along), Math.max(...along)];
    baselines.forEach((row, number) => {
      const y = row.scores[name];
      const line = { color: grey, width: 1.5, dash: DASHES[(number + 2) % DASHES.length] };
      const marker = { symbol: "line-ew-open", size: 40, color: grey };
      const mode = ends[0] < ends[1] ? "lines" : "markers"; // a line of one point would not be seen
      if (along.length) traces.push({ x: ends, y: [y, y], name: row.label, mode, line, marker, legendgroup: `baseline ${number}` });
    });
    numbers.push(...baselines.map((row) => [row.label, null, row.scores[name]]));
    this.plot("sizes", traces, { xaxis: { title: { text: axis.title } }, yaxis: { title: { text: name } } });
    const notes = ["Small marks are runs, large open ones the mean over the seeds of a row, grey lines baselines.", ...this.data.sizes_left_out];
    if (without.length) notes.push(`Not drawn, for they have no ${name} or no ${axis.title} yet: ${without.join("; ")}.`);
    this.tell("sizes", notes, numbersTable(`${name} against ${axis.title}`, ["run", axis.title, name], numbers));
    this.name("sizes", `${name} of ${plural(byRow.size, "row", "rows")} against ${axis.title}. The numbers are in the table below.`);
  }

  /** Draw with the page's colours and fonts, the legend beside or, on a narrow screen, below. */
  plot(id, traces, layout) {
    const style = getComputedStyle(document.body);
    const narrow = NARROW.matches;
    const axis = { gridcolor: GRID, zerolinecolor: GRID, linecolor: GRID, automargin: true };
    const rows = new Set(traces.map((trace) => trace.legendgroup)).size;
    const below = narrow || traces.some((trace) => trace.name.length > LONG_NAME);
    const height = below ? 360 + 22 * rows : Math.max(400, 60 + 28 * rows);
    Plotly.react(
      this.place(id),
      traces,
      {
        ...layout,
        xaxis: { ...axis, ...layout.xaxis },
        yaxis: { ...axis, ...layout.yaxis },
        height,
        margin: { l: 50, r: 12, t: 12, b: 44 },
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { family: style.fontFamily, size: 13, color: style.color },
        showlegend: true,
        legend: below ? { orientation: narrow ? "h" : "v", x: 0, yref: "container", y: 0, yanchor: "bottom" } : {},
        hovermode: "closest",
        dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      },
      { displayModeBar: false, responsive: true },
    );
    byId("js-plotly-tester")?.setAttribute("aria-hidden", "true"); // where Plotly measures texts, beside the page
  }

  tell(id, notes, table) {
    byId(id).querySelector(".note").textContent = notes.join(" ");
    byId(id).querySelector(".numbers").replaceChildren(table);
  }

  name(id, text) {
    this.place(id).setAttribute("aria-label", text);
  }
}
