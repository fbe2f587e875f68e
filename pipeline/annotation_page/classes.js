// The list of classes and groups: what is found, what was used before and has a digit key, and which entry is marked.

import { find, makeIndex } from "./search.js";

export const NONE = -1;
const SLOTS = 9;
const SHOWN = 200; // classes in the list at once

const make = (tag, name, text) => Object.assign(document.createElement(tag), { className: name, textContent: text });

export class Classes {
  constructor({ field, list, more, give }) {
    Object.assign(this, { field, list, more, give });
    this.options = []; // what is shown, as {label}, and {score} where it was predicted
    this.active = -1;
  }

  load(state) {
    this.state = state;
    this.index = makeIndex(state.classes).filter(({ label, size }) => !size || state.classes[label].offered);
    this.sorted = this.labels(one => !one.size);
    this.groups = this.labels(one => one.size);
    const { compare } = new Intl.Collator(undefined, { numeric: true });
    const byName = (a, b) => compare(state.classes[a].name.toLowerCase(), state.classes[b].name.toLowerCase());
    if (!this.few) this.sorted.sort(byName);
    this.groups.sort(byName);
    if (this.groups.length) this.field.placeholder = "type to find a class or a group";
    this.candidates = new Map();
    this.fillSlots();
  }

  labels(which) {
    return this.index.filter(which).map(one => one.label);
  }

  get few() {
    return this.sorted.length <= SLOTS;
  }

  get digitsSearch() {
    return this.state.classes.some(({ name }) => /^\d/.test(name));
  }

  get chosen() {
    return this.options[this.active].label;
  }

  nameOf(label) {
    return label === NONE ? "no class fits" : this.state.classes[label].name;
  }

  // The label of each digit key: all classes if they are few, else those that were used most.
  fillSlots() {
    const counts = new Map();
    for (const label of this.state.labels) {
      if (label !== null && label !== NONE) counts.set(label, (counts.get(label) || 0) + 1);
    }
    const most = [...counts].sort((a, b) => b[1] - a[1]).slice(0, SLOTS);
    this.slots = this.few ? [...this.sorted] : most.map(([label]) => label);
    this.used = [...this.slots].reverse(); // the last used last
  }

  // A class keeps its digit; a new one takes that of the class which was not used for longest.
  touch(label) {
    if (label === NONE || this.few) return;
    if (!this.slots.includes(label)) {
      if (this.slots.length < SLOTS) this.slots.push(label);
      else this.slots[this.slots.indexOf(this.used.shift())] = label;
    }
    this.used = [...this.used.filter(one => one !== label), label];
  }

  show(at) {
    const query = this.field.value.trim();
    const groups = query ? [["", this.found(query)]] : [...this.predicted(at), ...this.everything()];
    this.options = [];
    const items = [];
    let left = 0;
    for (const [title, entries] of groups) {
      if (title && entries.length) {
        items.push(make("li", "title", title));
        items.at(-1).setAttribute("role", "presentation");
      }
      for (const entry of entries.slice(0, SHOWN)) {
        items.push(this.option(entry, at, query));
        this.options.push(entry);
      }
      left += Math.max(0, entries.length - SHOWN);
    }
    this.list.replaceChildren(...items);
    this.list.scrollTop = 0;
    const nothing = query && !this.options.length;
    this.more.textContent = nothing ? "no class begins like this" : left ? `${left} more: type to find them` : "";
    this.mark(query && this.options.length ? 0 : -1);
  }

  found(query) {
    const found = find(this.index, query, this.slots).map(label => ({ label }));
    const isNone = this.state.none && "none".startsWith(query.toLowerCase());
    return isNone ? [...found, { label: NONE }] : found;
  }

  everything() {
    const all = this.sorted.map(label => ({ label }));
    const groups = ["Groups", this.groups.map(label => ({ label }))];
    if (this.few) return [["", all], groups];
    const recent = this.slots.map(label => ({ label }));
    return [["Recent", recent], [recent.length || this.state.predictions ? "All classes" : "", all], groups];
  }

  predicted(at) {
    if (!this.state.predictions) return [];
    if (!this.candidates.has(at)) {
      this.candidates.set(at, []);
      this.ask(at);
    }
    this.at = at;
    return [["Predicted", this.candidates.get(at).map(([label, score]) => ({ label, score }))]];
  }

  async ask(at) {
    const answer = await fetch(`predictions/${at}`).catch(() => null);
    if (!answer?.ok) return;
    this.candidates.set(at, await answer.json());
    if (at === this.at && !this.field.value) this.show(at);
  }

  option({ label, score }, at, query) {
    const item = make("li", label === this.state.labels[at] ? "given" : "", "");
    item.id = `option-${this.options.length}`;
    item.setAttribute("role", "option");
    item.setAttribute("aria-selected", "false");
    item.append(make("span", "", label === NONE ? "none: no class fits" : this.nameOf(label)));
    const slot = this.slots.indexOf(label);
    if (score !== undefined) item.append(make("span", "small", score.toFixed(3)));
    else if (slot >= 0) item.append(make("kbd", "", slot + 1));
    const { also, size } = label === NONE ? {} : this.state.classes[label];
    const notes = [size && `group of ${size} ${size === 1 ? "class" : "classes"}`, query && also].filter(Boolean);
    if (notes.length) item.append(make("span", "also", notes.join(": ")));
    item.addEventListener("pointerdown", event => event.preventDefault()); // the field keeps the focus
    item.addEventListener("click", () => this.give(label));
    return item;
  }

  move(by) {
    this.mark(Math.min(this.options.length - 1, Math.max(0, this.active + by)));
  }

  mark(number) {
    this.list.querySelector('[aria-selected="true"]')?.setAttribute("aria-selected", "false");
    this.active = number;
    const item = number < 0 ? null : this.list.querySelector(`#option-${number}`);
    item?.setAttribute("aria-selected", "true");
    item?.scrollIntoView({ block: "nearest" });
    if (item) this.field.setAttribute("aria-activedescendant", item.id);
    else this.field.removeAttribute("aria-activedescendant");
  }
}
