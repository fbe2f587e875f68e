// The page: one picture, its class, next. Every answer is sent to the file at once.

import { Classes, NONE } from "./classes.js";
import { Pictures } from "./pictures.js";
import { Saving } from "./saving.js";

const AHEAD = 24;
const PAUSE_MS = 60_000; // a longer time between two answers is a pause

const $ = id => document.getElementById(id);
const touch = matchMedia("(pointer: coarse)").matches;

const pictures = new Pictures($("frame"));
const saving = new Saving(showSaving);
const field = $("find");
const classes = new Classes({ field, list: $("classes"), more: $("more"), give });

let state; // as the server tells it; answers and labels are kept up to date here
let at = 0;
let history = []; // {at, answer, was}
let times = [];
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
  classes.load(state);
  history = [];
  $("none").hidden = $("none-key").hidden = !state.none;
  $("digits").textContent = classes.digitsSearch
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

// -- answers --------------------------------------------------------------------------------------------------

function give(label) {
  if (!state || !state.named || saving.lost) return;
  const answer = label === NONE ? state.none : state.classes[label].name;
  classes.touch(label);
  times.push(Date.now());
  write(at, answer, label, true);
  say(`${classes.nameOf(label)}.`);
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
  classes.show(at);
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
    name.textContent = label === null ? `${state.answers[at]}, which is no class` : classes.nameOf(label);
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
  if (/^\d$/.test(key) && !(inField && classes.digitsSearch)) {
    if (key === "0") return state.none ? () => give(NONE) : () => undefined;
    const label = classes.slots[key - 1];
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
    classes.move(event.key === "ArrowDown" ? 1 : -1);
  } else if (event.key === "Enter" && (inField || !event.target.closest("button"))) {
    event.preventDefault();
    if (classes.active >= 0 && !event.repeat) give(classes.chosen);
  } else if (event.key === "Escape") {
    if (field.value) {
      field.value = "";
      classes.show(at);
    } else field.blur();
  } else if (!inField && event.key.length === 1) field.focus();
});

field.addEventListener("input", () => classes.show(at));
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
