// A list of thousands of items, of which only those in sight are in the page. It scrolls with the page.

/** Pixels above and below the window in which items are kept. */
const MARGIN = 600;
const GAP = 12;

class VirtualList {
  /** `make(key)` gives the element of an item; `estimate(key)` its height in pixels before it is measured. */
  constructor(box, make, estimate, whenDrawn) {
    Object.assign(this, { box, make, estimate, whenDrawn, keys: [], tops: new Float64Array(1) });
    Object.assign(this, { drawn: new Map(), heights: new Map() });
    this.observer = new ResizeObserver((entries) => this.measured(entries));
    let waits = false;
    const later = () => {
      if (waits) return;
      waits = true;
      requestAnimationFrame(() => {
        waits = false;
        this.draw();
      });
    };
    addEventListener("scroll", later, { passive: true });
    addEventListener("resize", later);
    new ResizeObserver(() => this.forgetHeights()).observe(box);
    box.addEventListener("keydown", (event) => this.key(event));
  }

  /** Show these items, and make all of them anew. */
  set(keys) {
    this.keys = keys;
    this.clear();
    this.place();
    this.draw();
  }

  /** Make all items anew, for they look different. */
  clear() {
    this.observer.disconnect();
    this.drawn.clear();
    this.heights.clear();
    this.box.replaceChildren();
  }

  /** Another width means other heights. */
  forgetHeights() {
    const width = this.box.clientWidth;
    if (width === this.width) return;
    this.width = width;
    this.heights.clear();
    for (const [place, item] of this.drawn) this.heights.set(this.keys[place], item.offsetHeight);
    this.place();
    this.draw();
  }

  /** Compute where each item begins. */
  place() {
    this.tops = new Float64Array(this.keys.length + 1);
    this.keys.forEach((key, place) => {
      this.tops[place + 1] = this.tops[place] + (this.heights.get(key) ?? this.estimate(key)) + GAP;
    });
    this.box.style.height = `${this.tops.at(-1)}px`;
    for (const [place, item] of this.drawn) item.style.transform = `translateY(${this.tops[place]}px)`;
  }

  /** The first item that ends below a height. */
  at(height) {
    let [low, high] = [0, this.keys.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.tops[middle + 1] <= height) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** Put into the page what is in sight, and take out the rest, but for what has the focus. */
  draw() {
    const above = -this.box.getBoundingClientRect().top;
    const first = this.at(above - MARGIN);
    const last = Math.min(this.keys.length - 1, this.at(above + innerHeight + MARGIN));
    for (const [place, item] of this.drawn) {
      if ((place < first || place > last) && !item.contains(document.activeElement)) {
        this.observer.unobserve(item);
        item.remove();
        this.drawn.delete(place);
      }
    }
    for (let place = first; place <= last; place++) if (!this.drawn.has(place)) this.add(place);
    this.whenDrawn();
  }

  add(place) {
    const item = this.make(this.keys[place]);
    item.style.transform = `translateY(${this.tops[place]}px)`;
    item.tabIndex = -1;
    item.setAttribute("aria-posinset", place + 1);
    item.setAttribute("aria-setsize", this.keys.length);
    const after = [...this.drawn].filter(([other]) => other > place).sort(([one], [two]) => one - two)[0];
    this.box.insertBefore(item, after?.[1] ?? null); // so that a screen reader meets them in order
    this.drawn.set(place, item);
    this.observer.observe(item);
  }

  /** Move the items to their true places; what is at the top of the window stays there. */
  measured(entries) {
    const places = new Map([...this.drawn].map(([place, item]) => [item, place]));
    const above = -this.box.getBoundingClientRect().top;
    const anchor = this.at(above);
    const before = this.tops[anchor];
    let changed = false;
    for (const { target } of entries) {
      const key = this.keys[places.get(target)];
      if (!target.isConnected || this.heights.get(key) === target.offsetHeight) continue;
      this.heights.set(key, target.offsetHeight);
      changed = true;
    }
    if (!changed) return;
    this.place();
    if (above > 0 && this.tops[anchor] !== before) scrollBy(0, this.tops[anchor] - before);
    this.draw();
  }

  /** Page Down and Page Up move from item to item, as in every feed; Home and End to the ends. */
  key(event) {
    const own = [...this.drawn].find(([, item]) => item.contains(document.activeElement))?.[0];
    const here = own ?? -1;
    const goal = { PageDown: here + 1, PageUp: here - 1, Home: 0, End: this.keys.length - 1 }[event.key];
    if (goal === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    if (goal < 0 || goal >= this.keys.length) return;
    this.go(goal);
  }

  /** Bring an item to the top of the window and give it the focus. */
  go(place) {
    if (!this.drawn.has(place)) this.add(place);
    const item = this.drawn.get(place);
    item.focus({ preventScroll: true });
    scrollTo(0, scrollY + this.box.getBoundingClientRect().top + this.tops[place] - GAP);
    this.draw();
  }
}
