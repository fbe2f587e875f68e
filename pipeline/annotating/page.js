// The page: one picture, its class, next. Every answer is sent to the file at once.

import { Pictures } from "./pictures.js";
import { Saving } from "./saving.js";
import { find, makeIndex } from "./search.js";

const NONE = -1;
const SLOTS = 9;
const SHOWN = 200; // classes in the list at once
const AHEAD = 24;
const PAUSE_MS = 60_000; // a longer time between two answers is a pause

const $ = id => document.getElementById(id);
const touch = matchMedia("(pointer: coarse)").matches;

const pictures = new Pictures($("frame"));
const saving = new Saving(showSaving);
const field = $("find");

let state; // as the server tells it; answers and labels are kept up to date here
let index = [];
let sorted = []; // labels in the order of their names
let slots = []; // label of each digit key
let used = []; // labels of the slots, the last used last
let at = 0;
let history = []; // {at, answer, was}
let times = [];
let options = []; // what the list shows: {label} or {none}
let active = -1;
let keyShown = false;
let shown = 0; // counts pictures, so that a late one is not shown in the place of another

// -- the state ------------------------------------------------------------------------------------------------

async function load(by) {
  const answer = await fetch(by === undefined ? "state" : `state?by=${encodeURIComponent(by)}`);
  const told = await answer.json();
  if (!answer.ok) return told.problem;
  state = told;
  if (!state.named) {
    askName();
    return "";
  }
  index = makeIndex(state.classes);
  sorted = index.map(one => one.label);
  const { compare } = new Intl.Collator(undefined, { numeric: true });
  if (sorted.length > SLOTS) sorted.sort((a, b) => compare(index[a].name, index[b].name));
  history = [];
  fillSlots();
  $("none").hidden = $("none-key").hidden = !state.none;
  $("digits").textContent = digitsSearch()
    ? "answer with the class that has this digit in the list; leave the field (Esc) before"
    : "answer with the class that has this digit in the list";
  $("who").textContent = state.by ? `as ${state.by}` : "give a name";
  document.title = `Label ${state.list.split("/").pop()}`;
  const first = state.labels.indexOf(null);
  go(first < 0 ? 0 : first);
  if (first < 0) finish();
  return "";
}

const answered = () => state.labels.reduce((count, label) => count + (label !== null), 0);
const digitsSearch = () => state.classes.some(({ name }) => /^\d/.test(name));
const nameOf = label => (label === NONE ? "no class fits" : state.classes[label].name);

function fillSlots() {
  if (state.classes.length <= SLOTS) {
    slots = used = state.classes.map((_, label) => label);
    return;
  }
  const counts = new Map();
  for (const label of state.labels) if (label !== null && label !== NONE) counts.set(label, (counts.get(label) || 0) + 1);
  slots = [...counts].sort((a, b) => b[1] - a[1]).slice(0, SLOTS).map(([label]) => label);
  used = [...slots].reverse();
}

// A class keeps its digit; a new one takes that of the class which was not used for longest.
function touchSlot(label) {
  if (label === NONE || state.classes.length <= SLOTS) return;
  if (!slots.includes(label)) {
    if (slots.length < SLOTS) slots.push(label);
    else slots[slots.indexOf(used.shift())] = label;
  }
  used = [...used.filter(one => one !== label), label];
}

// -- answers --------------------------------------------------------------------------------------------------

function give(label) {
  if (!state || !state.named || saving.lost) return;
  const answer = label === NONE ? state.none : state.classes[label].name;
  touchSlot(label);
  times.push(Date.now());
  write(at, answer, label, true);
  say(`${nameOf(label)}.`);
  next();
}

function write(where, answer, label, undoable) {
  const was = state.answers[where];
  if (undoable) history.push({ at: where, was, label: state.labels[where] });
  state.answers[where] = answer;
  state.labels[where] = label;
  hideBanner();
  saving.save({ at: where, by: state.by, answer, was }, (status, content) => {
    state.answers[where] = status === 409 ? content.now : was;
    state.labels[where] = status === 409 ? content.label : null;
    history = history.filter(entry => entry.at !== where);
    go(where);
    banner(`Not saved: ${content.problem}. ${status === 409 ? "Choose again to replace it." : ""}`);
  });
}

function undo() {
  const last = history.pop();
  if (!last || saving.lost) return;
  times.pop();
  write(last.at, last.was, last.label, false);
  go(last.at);
  say("taken back");
}

function remove() {
  if (state.answers[at] === "" || saving.lost) return;
  write(at, "", null, true);
  go(at);
  say("answer removed");
}

function next() {
  const after = state.labels.indexOf(null, at + 1);
  const first = after < 0 ? state.labels.indexOf(null) : after;
  if (first < 0) {
    go(at);
    finish();
  } else if (first === at) say("No other image is without an answer.");
  else go(first);
}

function step(by) {
  const to = at + by;
  if (to >= 0 && to < state.labels.length) go(to);
}

async function finish() {
  await saving.last;
  if (saving.lost || answered() < state.labels.length) return;
  const count = await (await fetch("count")).json();
  const none = count.none ? `, of which ${count.none} have no class that fits` : "";
  const tied = count.tied ? ` In ${count.tied} annotators do not agree, and there is no truth.` : "";
  $("done-text").textContent = `${count.truths} of ${count.images} images have a truth${none}.${tied}`;
  $("next").textContent = state.next.join("\n");
  if (!$("done").open) $("done").showModal();
}

// -- what is shown --------------------------------------------------------------------------------------------

function go(to) {
  at = to;
  field.value = "";
  const total = state.labels.length;
  $("place").textContent = `Image ${at + 1} of ${total}`;
  $("back").disabled = at === 0;
  $("forward").disabled = at === total - 1;
  showKey();
  showOwn();
  showProgress();
  showClasses();
  showPicture();
  if (!touch) field.focus({ preventScroll: true });
}

function upcoming(count) {
  const found = [];
  for (let one = at + 1; one < state.labels.length && found.length < count; one += 1) {
    if (state.labels[one] === null) found.push(one);
  }
  return found;
}

async function showPicture() {
  const own = (shown += 1);
  const frame = $("frame");
  frame.classList.remove("enlarged");
  const later = setTimeout(() => own === shown && frame.replaceChildren(paragraph("waiting", "reading the image …")), 250);
  const ahead = upcoming(AHEAD);
  const found = await pictures.get(at, ahead);
  const image = new Image();
  if (found.url) {
    image.alt = `Image ${at + 1}`;
    image.src = found.url;
    await image.decode().catch(() => undefined);
  }
  clearTimeout(later);
  if (own !== shown) return;
  if (found.url) frame.replaceChildren(image);
  else {
    pictures.forget(at);
    const box = paragraph("problem", "");
    const title = document.createElement("strong");
    title.textContent = "This image cannot be shown.";
    const problem = found.problem.replace(/^(?=(is|has|cannot) )/, "It ");
    box.append(title, ` ${problem}. Skip it, or come back to try again.`);
    frame.replaceChildren(box);
  }
  const near = [at + 1, at - 1].filter(one => one >= 0 && one < state.labels.length);
  pictures.prefetch([...ahead.slice(0, 4), ...near], ahead);
}

async function enlarge() {
  const frame = $("frame");
  const image = frame.querySelector("img");
  if (!image) return;
  if (frame.classList.toggle("enlarged")) {
    const own = shown;
    const large = await pictures.ask(at, 8192);
    if (own === shown && large.url && frame.classList.contains("enlarged")) {
      image.addEventListener("load", () => URL.revokeObjectURL(large.url), { once: true });
      image.src = large.url;
      await image.decode().catch(() => undefined);
      frame.scrollTo((frame.scrollWidth - frame.clientWidth) / 2, (frame.scrollHeight - frame.clientHeight) / 2);
    }
  }
}

function showOwn() {
  const own = $("own");
  const label = state.labels[at];
  if (!state.answers[at].trim()) own.replaceChildren();
  else {
    const name = document.createElement(label === null ? "span" : "strong");
    name.className = label === null ? "bad" : "";
    name.textContent = label === null ? `${state.answers[at]}, which is no class` : nameOf(label);
    own.replaceChildren("Your answer: ", name);
    own.title = name.textContent; // where it is cut short
  }
}

function showKey() {
  $("key").textContent = keyShown ? `${state.shards[at]} ${state.keys[at]}`.trim() : "";
}

function showProgress() {
  const count = answered();
  $("answered").textContent = `${count} of ${state.labels.length} answered`;
  $("progress").max = state.labels.length;
  $("progress").value = count;
  $("undo").disabled = !history.length;
  const gaps = times.slice(-31).map((time, number, all) => time - all[number - 1]).filter(gap => gap < PAUSE_MS);
  const perMinute = (60_000 * gaps.length) / gaps.reduce((sum, gap) => sum + gap, 0);
  $("rate").textContent = gaps.length > 2 ? `${perMinute.toFixed(perMinute < 10 ? 1 : 0)} a minute` : "";
}

function showSaving() {
  if (saving.lost) {
    $("saved").textContent = "not saved";
    banner("Not saved: the server of this page does not answer. Was it ended? ", "Try again", () => saving.again());
  } else {
    if ($("banner").querySelector("button")) hideBanner();
    $("saved").textContent = saving.waiting ? "saving …" : times.length || history.length ? "saved" : "";
  }
}

function banner(text, action, run) {
  const box = $("banner");
  box.replaceChildren(text);
  if (action) {
    const button = document.createElement("button");
    button.className = "link";
    button.textContent = action;
    button.addEventListener("click", run);
    box.append(button);
  }
  box.hidden = false;
}

function hideBanner() {
  $("banner").hidden = true;
  $("banner").replaceChildren();
}

function paragraph(name, text) {
  const made = document.createElement("p");
  made.className = name;
  made.textContent = text;
  return made;
}

function say(text) {
  $("said").textContent = `${text} Image ${at + 1} of ${state.labels.length}.`;
}

// -- the list of classes --------------------------------------------------------------------------------------

function showClasses() {
  const query = field.value;
  const groups = query.trim() ? [["", searched(query)]] : [...predicted(), ...everything()];
  options = [];
  const items = [];
  let left = 0;
  for (const [title, entries] of groups) {
    if (title && entries.length) {
      const head = document.createElement("li");
      head.className = "title";
      head.setAttribute("role", "presentation");
      head.textContent = title;
      items.push(head);
    }
    for (const entry of entries.slice(0, SHOWN)) {
      items.push(option(entry, options.length, query));
      options.push(entry);
    }
    left += Math.max(0, entries.length - SHOWN);
  }
  $("classes").replaceChildren(...items);
  $("classes").scrollTop = 0;
  const nothing = query.trim() && !options.length;
  $("more").textContent = nothing ? "no class begins like this" : left ? `${left} more: type to find them` : "";
  setActive(query.trim() && options.length ? 0 : -1);
}

function searched(query) {
  const found = find(index, query, slots).map(label => ({ label }));
  const isNone = state.none && "none".startsWith(query.trim().toLowerCase());
  return isNone ? [...found, { label: NONE }] : found;
}

function predicted() {
  if (!state.predictions) return [];
  const own = at;
  if (!state.candidates) state.candidates = new Map();
  if (!state.candidates.has(own)) {
    state.candidates.set(own, []);
    fetch(`predictions/${own}`)
      .then(answer => (answer.ok ? answer.json() : []))
      .then(found => {
        state.candidates.set(own, found);
        if (own === at && !field.value) showClasses();
      })
      .catch(() => undefined);
  }
  return [["Predicted", state.candidates.get(own).map(([label, score]) => ({ label, score }))]];
}

function everything() {
  const all = sorted.map(label => ({ label }));
  if (state.classes.length <= SLOTS) return [["", all]];
  return [["Recent", slots.map(label => ({ label }))], [slots.length || state.predictions ? "All classes" : "", all]];
}

function option(entry, number, query) {
  const item = document.createElement("li");
  item.id = `option-${number}`;
  item.setAttribute("role", "option");
  item.setAttribute("aria-selected", "false");
  const name = document.createElement("span");
  name.textContent = entry.label === NONE ? "none: no class fits" : state.classes[entry.label].name;
  item.append(name);
  const slot = slots.indexOf(entry.label);
  if (entry.score !== undefined) item.append(Object.assign(document.createElement("span"), { className: "small", textContent: entry.score.toFixed(3) }));
  else if (slot >= 0) item.append(Object.assign(document.createElement("kbd"), { textContent: slot + 1 }));
  if (query.trim() && entry.label !== NONE && state.classes[entry.label].also) {
    item.append(Object.assign(document.createElement("span"), { className: "also", textContent: state.classes[entry.label].also }));
  }
  if (entry.label === state.labels[at]) item.classList.add("given");
  item.addEventListener("pointerdown", event => event.preventDefault()); // the field keeps the focus
  item.addEventListener("click", () => give(entry.label));
  return item;
}

function setActive(number) {
  $("classes").querySelector('[aria-selected="true"]')?.setAttribute("aria-selected", "false");
  active = number;
  const item = number < 0 ? null : $(`option-${number}`);
  item?.setAttribute("aria-selected", "true");
  item?.scrollIntoView({ block: "nearest" });
  if (item) field.setAttribute("aria-activedescendant", item.id);
  else field.removeAttribute("aria-activedescendant");
}

// -- keys -----------------------------------------------------------------------------------------------------

const plainKeys = {
  " ": next,
  ArrowLeft: () => step(-1),
  ArrowRight: () => step(1),
  Delete: remove,
  "+": enlarge,
  "=": enlarge,
  ".": () => {
    keyShown = !keyShown;
    showKey();
  },
  "?": () => $("keys").showModal(),
};

// What a key does while nothing is typed; undefined where it is to be typed.
function plainAction(key, inField) {
  if (/^\d$/.test(key) && !(inField && digitsSearch())) {
    if (key === "0") return state.none ? () => give(NONE) : () => undefined;
    const label = slots[key - 1];
    return label === undefined ? () => undefined : () => give(label);
  }
  return plainKeys[key];
}

document.addEventListener("keydown", event => {
  if (!state?.named || document.querySelector("dialog[open]") || event.isComposing) return;
  const inField = event.target === field;
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z" && !field.value) {
    event.preventDefault();
    undo();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (!inField && ["Enter", " "].includes(event.key) && event.target.closest("button, a, pre")) return;
  const action = field.value ? undefined : plainAction(event.key, inField);
  if (action) {
    event.preventDefault();
    if (!event.repeat || event.key.startsWith("Arrow")) action();
  } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    const move = event.key === "ArrowDown" ? 1 : -1;
    setActive(Math.min(options.length - 1, Math.max(0, active + move)));
  } else if (event.key === "Enter" && (inField || !event.target.closest("button"))) {
    event.preventDefault();
    if (active >= 0 && !event.repeat) give(options[active].label);
  } else if (event.key === "Escape") {
    if (field.value) {
      field.value = "";
      showClasses();
    } else field.blur();
  } else if (!inField && event.key.length === 1) field.focus();
});

field.addEventListener("input", showClasses);
for (const [id, run] of Object.entries({ none: () => give(NONE), skip: next, back: () => step(-1), forward: () => step(1), undo })) {
  $(id).addEventListener("click", run);
}
$("help").addEventListener("click", () => $("keys").showModal());
$("frame").addEventListener("click", enlarge);
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("close", () => state?.named && !touch && field.focus());
}

// -- who labels -----------------------------------------------------------------------------------------------

function askName() {
  const known = state.annotators;
  $("name-note").textContent = known.length
    ? `This list has answers by ${known.join(", ")}. Each name has a column of its own; the truth is the majority.`
    : "With a name your answers get a column of your own, and the truth is the majority of all names. Who labels alone needs none.";
  $("names").replaceChildren(...known.map(name => Object.assign(document.createElement("option"), { value: name })));
  $("by").value = state.by;
  $("name-problem").hidden = true;
  $("name").showModal();
}

$("who").addEventListener("click", askName);
$("name").addEventListener("cancel", event => !state.named && event.preventDefault());
$("name-form").addEventListener("submit", async event => {
  event.preventDefault();
  await saving.last;
  const problem = await load($("by").value);
  $("name-problem").textContent = problem;
  $("name-problem").hidden = !problem;
  if (!problem) $("name").close();
});

load().then(problem => problem && banner(problem));
