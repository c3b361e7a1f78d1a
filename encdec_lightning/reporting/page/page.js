// The start of the page: its data are unpacked, its parts are set up, and a choice of runs or colours reaches them all.

const byId = (id) => document.getElementById(id);

/** An element with properties and children; texts become text nodes, so that nothing in them is read as HTML. */
function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "role" || key === "for") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

/** The value that a script element holds as compressed JSON. */
async function unpacked(id) {
  const letters = atob(byId(id).textContent);
  const bytes = new Uint8Array(letters.length);
  for (let place = 0; place < letters.length; place++) bytes[place] = letters.charCodeAt(place);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

function plural(count, one, several) {
  return `${count.toLocaleString("en")} ${count === 1 ? one : several}`;
}

/** Light or dark: what the system says, or what was chosen here before. */
function setUpColours(changed) {
  const select = byId("scheme");
  const remember = (work) => {
    try {
      return work();
    } catch {
      return null; // a browser may keep nothing for pages from a disk
    }
  };
  const known = remember(() => localStorage.getItem("encdec-report-colours"));
  if ([...select.options].some((option) => option.value === known)) select.value = known;
  const apply = () => {
    document.documentElement.style.colorScheme = select.value;
  };
  select.addEventListener("change", () => {
    apply();
    remember(() => localStorage.setItem("encdec-report-colours", select.value));
    changed();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
  apply();
}

function isDark() {
  const scheme = byId("scheme").value;
  return scheme === "dark" || (scheme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
}

/** A box for each run of a test set; `changed` hears of every choice. Gives a function that tells the chosen numbers. */
function setUpRuns(runs, changed) {
  const boxes = runs.map((run, number) => element("input", { type: "checkbox", checked: true, value: number }));
  byId("shown-runs").replaceChildren(
    ...runs.map((run, number) => {
      const state = run.state === "finished" ? "" : ` (${run.state})`;
      return element("label", {}, boxes[number], ` ${run.label}${state}`);
    }),
  );
  byId("shown-runs").onchange = changed;
  const setAll = (checked) => () => {
    for (const box of boxes) box.checked = checked;
    changed();
  };
  byId("all-runs").onclick = setAll(true);
  byId("no-runs").onclick = setAll(false);
  return () => boxes.filter((box) => box.checked).map((box) => Number(box.value));
}

async function start() {
  for (const table of document.querySelectorAll("table.sortable")) makeSortable(table);
  let plots = null;
  let shown = () => [];
  setUpColours(() => plots?.draw());
  const examples = new Examples();
  const select = byId("test-set");
  byId("test-set-line").hidden = select.options.length < 2;
  const open = async () => {
    const data = await unpacked(`data-${select.value}`);
    shown = setUpRuns(data.runs, () => {
      examples.show(shown());
      plots?.show(shown());
    });
    byId("choice").hidden = false;
    examples.open(data, shown());
    plots?.open(data, shown());
    return data;
  };
  try {
    let data = await open();
    document.documentElement.dataset.usable = Math.round(performance.now());
    select.addEventListener("change", async () => {
      data = await open();
    });
    const library = element("script", { textContent: await unpacked("library") });
    document.head.append(library);
    plots = new Plots();
    plots.open(data, shown());
    document.documentElement.dataset.drawn = Math.round(performance.now());
  } catch (error) {
    for (const id of ["plots-wait", "examples-wait"]) {
      byId(id).textContent = `This part cannot be shown (${error.message}). A browser of 2024 or later is needed.`;
      byId(id).hidden = false;
    }
    throw error;
  }
}

start();
