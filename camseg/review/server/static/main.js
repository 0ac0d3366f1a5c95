// The page: loads masks one by one, takes keys, pointers and buttons, and sends decisions.

import { decide, getBitmap, getJson, getPixels, pixelsOf, post } from "/static/api.js";
import { History } from "/static/history.js";
import { above, area, equal, levelOf, paintLine, piece, toPng } from "/static/mask.js";
import { ActiveTimer } from "/static/timer.js";
import { View } from "/static/view.js";

const $ = (id) => document.getElementById(id);
const view = new View($("canvas"));
const timer = new ActiveTimer();
const visited = [];
const skipped = new Set();
const broken = new Set(); // what cannot be shown, and so does not come again
const LEASE_EVERY = 60000;
let place = -1;
let item = null;
let history = null;
let tool = "pan";
let busy = false;
let actions = {};
let stroke = null;

function say(words, bad = false) {
  $("status").textContent = words;
  $("status").classList.toggle("bad", bad);
}

function sayAll(words) {
  say([...new Set(words.filter(Boolean))].join(" · "));
}

function count(name) {
  actions[name] = (actions[name] ?? 0) + 1;
}

// ---- one mask ------------------------------------------------------------------------------------

async function show(facts) {
  if (!facts) {
    item = null;
    stroke = null;
    view.item = null;
    view.draw();
    $("blank").hidden = false;
    $("blank").textContent = "Nothing is left to look at: each mask has been decided on, or somebody else looks at it.";
    $("name").textContent = "Done";
    $("facts").textContent = "";
    say("");
    enable();
    return;
  }
  const base = `/api/items/${facts.id}`;
  const [bitmap, maskPixels, cam] = await Promise.all([
    facts.image ? getBitmap(`${base}/image`) : null,
    getPixels(`${base}/mask`),
    facts.cam ? getPixels(`${base}/cam`) : null,
  ]);
  const mask = above(maskPixels, 127);
  item = { ...facts, bitmap, cam, mask, strokes: new Uint8Array(mask.length), original: mask, trimap: null };
  item.level = null;
  item.segments = null;
  history = new History({ mask, strokes: item.strokes, level: null });
  actions = {};
  $("blank").hidden = facts.image;
  $("blank").textContent = facts.image ? "" : "The image was not found.";
  $("name").textContent = facts.name;
  document.title = `${facts.name} - camseg review`;
  const number = (value) => value === null ? "unknown" : value.toFixed(2);
  const marks = [facts.class, `quality ${number(facts.quality)}`, `score ${number(facts.score)}`];
  if (facts.drawn) marks.push("drawn at random");
  if (facts.decision) marks.push(facts.decision);
  if (facts.empty) marks.push(facts.empty);
  $("facts").textContent = marks.filter(Boolean).join(" · ");
  $("reasons").replaceChildren(...facts.reasons.map((reason) => {
    const line = document.createElement("li");
    line.textContent = reason;
    return line;
  }));
  $("levels").hidden = !cam;
  if (cam) $("level").value = levelOf(cam, mask);
  $("show-trimap").disabled = !facts.trimap;
  $("show-cam").disabled = !cam;
  $("window").hidden = !facts.deep;
  fillClasses();
  view.show(item);
  view.onPaint = () => timer.start();
  changed();
  if (view.options.trimap) loadTrimap();
  if (tool === "segments") loadSegments();
  say(facts.leased === false ? "Another reviewer looks at this mask; what you decide may come too late." : "");
}

function fillClasses() {
  $("class-row").hidden = item.classes.length < 2;
  $("class").replaceChildren(...item.classes.map((one) => new Option(one.class || "-", one.id, false, one.id === item.id)));
}

function changed() {
  const { mask, strokes } = history.now;
  stroke = null; // what is held still began on another state, or on another mask
  item.mask = mask;
  item.strokes = strokes;
  view.strokesShown = tool === "brush" || tool === "erase";
  tell();
  view.refresh();
  enable();
}

function tell() {
  const pixels = area(item.mask), share = 100 * pixels / item.mask.length;
  const level = item.level === null ? "" : `level ${item.level}: `;
  $("size").textContent = `${level}${pixels} pixels, ${share.toFixed(share < 1 ? 2 : 1)} % of the image`;
  $("canvas").setAttribute("aria-label", `${item.name}, mask of ${item.class || "the object"}: ${$("size").textContent}`);
}

function enable() {
  for (const id of ["accept", "reject", "empty", "next", "solve", "machine", "level"]) $(id).disabled = !item || busy;
  $("previous").disabled = place < 1 || busy;
  $("undo").disabled = !item || !history.past.length;
  $("redo").disabled = !item || !history.future.length;
  if (item) $("solve").disabled ||= !item.image;
}

function commit(mask, strokes = history.now.strokes, level = null) {
  item.level = level;
  history.commit({ mask, strokes, level });
  changed();
}

async function run(work) {
  if (busy) return;
  busy = true;
  enable();
  try {
    await work();
  } catch (error) {
    say(error.message || "The server does not answer; is camseg review still running?", true);
  } finally {
    busy = false;
    enable();
  }
}

// ---- the queue -----------------------------------------------------------------------------------

// Shows the next mask; gives what there is to say.
async function following() {
  if (place + 1 < visited.length) {
    place += 1;
    await show(await getJson(`/api/items/${visited[place]}`));
    return [$("status").textContent];
  }
  const words = [];
  for (;;) {
    const facts = await upcoming();
    if (!facts && skipped.size) {
      // The one that is on the page comes last.
      const last = item && skipped.size > 1 ? [item.id] : [];
      skipped.clear();
      for (const id of last) skipped.add(id);
      words.push("back to the masks that were passed over");
      continue;
    }
    try {
      await show(facts);
    } catch (error) {
      // TypeError: no answer, which is not the mask's fault.
      if (error instanceof TypeError || !facts || broken.has(facts.id)) throw error;
      broken.add(facts.id);
      words.push(`${facts.name} cannot be shown: ${error.message}`);
      continue;
    }
    if (facts) {
      visited.push(facts.id);
      place = visited.length - 1;
    } else {
      words.push(...(await overview()).remarks);
    }
    return [$("status").textContent, ...words];
  }
}

function upcoming() {
  return getJson(`/api/next?skipped=${[...broken, ...[...skipped].slice(-500)].join(",")}`);
}

function next() {
  return run(async () => {
    if (item && !item.decision) skipped.add(item.id);
    sayAll(await following());
  });
}

function previous() {
  return run(async () => {
    if (place < 1 && item) return;
    if (item) place -= 1;
    await show(await getJson(`/api/items/${visited[place]}`));
  });
}

async function overview() {
  const told = await getJson("/api/overview");
  $("progress").max = Math.max(1, told.total);
  $("progress").value = told.done;
  $("counts").textContent = `${told.done} of ${told.total} decided, ${told.order} first`.replace("random first", "at random");
  return told;
}

function send(decision) {
  return run(async () => {
    if (!item) return;
    const edited = decision === "accepted" && !equal(item.mask, item.original);
    const painted = edited ? await toPng(item.width, item.height, item.mask, null) : null;
    const verdict = {
      decision: edited ? "edited" : decision,
      seconds: timer.stop(),
      annotator: $("annotator").value,
      actions,
    };
    if (edited && item.level !== null) verdict.level = item.level;
    try {
      const taken = await decide(item.id, item.etag, verdict, painted);
      skipped.delete(item.id);
      say(`${item.name}: ${taken.decision}, ${verdict.seconds.toFixed(1)} s`);
    } catch (error) {
      if (error.status !== 409) { timer.resume(); throw error; }
      await show(await getJson(`/api/items/${item.id}`));
      say(error.message, true);
      return;
    }
    const words = $("status").textContent;
    sayAll([words, ...await following()]);
    overview().catch(() => {});
  });
}

// ---- changes -------------------------------------------------------------------------------------

function setLevel(level, final) {
  if (!item?.cam) return;
  const bounded = Math.min(255, Math.max(0, level));
  $("level").value = bounded;
  item.level = bounded;
  item.mask = above(item.cam, bounded);
  tell();
  view.refresh();
  if (final) {
    count("level");
    commit(item.mask, new Uint8Array(item.mask.length), bounded);
  }
}

function solve() {
  return run(async () => {
    if (!item) return;
    const began = performance.now();
    const body = await toPng(item.width, item.height, item.mask, item.strokes);
    const answer = await post(`/api/items/${item.id}/solve?solver=${$("solver").value}`, body);
    const mask = above(await pixelsOf(await answer.blob()), 127);
    count("solve");
    commit(mask);
    say(`re-solved in ${((performance.now() - began) / 1000).toFixed(2)} s`);
  });
}

function machine() {
  return run(async () => {
    if (!item) return;
    const mask = above(await getPixels(`/api/items/${item.id}/mask?which=machine`), 127);
    count("machine");
    commit(mask, new Uint8Array(mask.length));
  });
}

async function loadSegments() {
  const of = item;
  if (!of || of.segments || !of.image) return;
  try {
    const { data } = await getPixels(`/api/items/${of.id}/segments`);
    of.segments = new Uint16Array(data.length / 4).map((_, at) => data[4 * at] | (data[4 * at + 1] << 8));
  } catch (error) {
    say(error.message, true);
  }
}

async function loadTrimap() {
  if (!item?.trimap && item?.id) {
    const of = item;
    try {
      const found = await getPixels(`/api/items/${of.id}/trimap`);
      of.trimap = found;
      if (of === item) view.refresh();
    } catch {
      say("There is no trimap of this mask.");
    }
  }
}

function use(point) {
  const x = Math.round(point.x), y = Math.round(point.y);
  if (!item || busy || x < 0 || y < 0 || x >= item.width || y >= item.height) return;
  if (tool === "pieces") togglePiece(x, y);
  if (tool === "segments") toggleSegment(x, y);
  if (tool === "brush" || tool === "erase") {
    beginStroke(point);
    endStroke();
  }
}

function togglePiece(x, y) {
  const { width, height } = item, at = y * width + x, mask = item.mask.slice();
  let places = null;
  if (mask[at]) {
    places = piece(mask, width, height, x, y);
  } else {
    // What may come back: a piece of the mask as it was, or of the map at the level of the slider.
    const sources = [item.original, item.cam ? above(item.cam, Number($("level").value)) : null];
    const source = sources.find((one) => one && one[at]);
    if (!source) { say("No piece of the mask or of the map lies there."); return; }
    places = piece(source, width, height, x, y);
  }
  const value = mask[at] ? 0 : 1;
  for (const one of places) mask[one] = value;
  count("piece");
  commit(mask);
}

function toggleSegment(x, y) {
  if (!item.segments) { say("The superpixels are on their way."); return; }
  const at = y * item.width + x, label = item.segments[at], mask = item.mask.slice();
  const value = mask[at] ? 0 : 1;
  for (let one = 0; one < mask.length; one++) if (item.segments[one] === label) mask[one] = value;
  count("superpixel");
  commit(mask);
}

function beginStroke(point) {
  stroke = { mask: item.mask.slice(), strokes: item.strokes.slice(), last: point };
  item.mask = stroke.mask;
  item.strokes = stroke.strokes;
  extendStroke(point);
}

function extendStroke(point) {
  const radius = Number($("brush").value) / 2, erase = tool === "erase";
  paintLine(stroke.mask, item.width, item.height, stroke.last, point, radius, erase ? 0 : 1);
  paintLine(stroke.strokes, item.width, item.height, stroke.last, point, radius, erase ? 2 : 1);
  stroke.last = point;
  view.refresh();
}

function endStroke() {
  const { mask, strokes } = stroke;
  stroke = null;
  count(tool);
  commit(mask, strokes);
}

function undo() {
  if (item && history.undo()) { count("undo"); item.level = history.now.level; changed(); }
}

function redo() {
  if (item && history.redo()) { item.level = history.now.level; changed(); }
}

function choose(name) {
  tool = name;
  for (const input of document.querySelectorAll('input[name="tool"]')) input.checked = input.value === name;
  view.radius = tool === "brush" || tool === "erase" ? Number($("brush").value) / 2 : 0;
  view.strokesShown = view.radius > 0;
  $("canvas").style.cursor = { pan: "grab", pieces: "pointer", segments: "pointer" }[tool] ?? "crosshair";
  if (tool === "segments" && item) loadSegments();
  view.refresh();
}

function resizeBrush(factor) {
  const size = Number($("brush").value);
  $("brush").value = factor > 1 ? Math.max(size + 1, size * factor) : Math.min(size - 1, size * factor);
  choose(tool);
}

// ---- pointers ------------------------------------------------------------------------------------

const fingers = new Map();
let dragged = null;

$("canvas").addEventListener("pointerdown", (event) => {
  timer.mark();
  $("canvas").setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, event);
  if (fingers.size === 2) {
    if (stroke) { stroke = null; changed(); }
    dragged = null;
    return;
  }
  const moves = tool === "pan" || event.button === 1 || event.button === 2;
  dragged = { moves, from: event };
  if (!item || busy || moves) return;
  if (tool === "brush" || tool === "erase") beginStroke(view.at(event));
  else use(view.at(event));
});

$("canvas").addEventListener("pointermove", (event) => {
  timer.mark();
  view.pointer = item ? view.at(event) : null;
  if (fingers.size === 2 && fingers.has(event.pointerId)) {
    const [first, second] = [...fingers.values()];
    const before = Math.hypot(first.clientX - second.clientX, first.clientY - second.clientY);
    const last = fingers.get(event.pointerId);
    view.pan((event.clientX - last.clientX) / 2, (event.clientY - last.clientY) / 2);
    fingers.set(event.pointerId, event);
    const [one, other] = [...fingers.values()];
    const after = Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
    const middle = { clientX: (one.clientX + other.clientX) / 2, clientY: (one.clientY + other.clientY) / 2 };
    if (before > 0) view.zoom(after / before, middle);
    return;
  }
  if (dragged?.moves) {
    view.pan(event.clientX - dragged.from.clientX, event.clientY - dragged.from.clientY);
    dragged.from = event;
  } else if (stroke) {
    for (const one of event.getCoalescedEvents?.() ?? [event]) extendStroke(view.at(one));
  } else if (view.radius) {
    view.draw();
  }
});

for (const name of ["pointerup", "pointercancel"]) {
  $("canvas").addEventListener(name, (event) => {
    fingers.delete(event.pointerId);
    dragged = null;
    if (stroke) endStroke();
  });
}
$("canvas").addEventListener("pointerleave", () => { view.pointer = null; view.draw(); });
$("canvas").addEventListener("contextmenu", (event) => event.preventDefault());
$("canvas").addEventListener("wheel", (event) => {
  event.preventDefault();
  timer.mark();
  const factor = event.deltaY < 0 ? 1.15 : 1 / 1.15;
  if (view.radius && !event.ctrlKey) resizeBrush(factor); else view.zoom(factor, event);
}, { passive: false });

// ---- keys ----------------------------------------------------------------------------------------

function moveCross(key) {
  if (!item) return;
  const step = Math.max(1, Math.round(8 / view.scale));
  const cross = view.cross ?? { x: Math.round(item.width / 2), y: Math.round(item.height / 2) };
  const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
  view.cross = {
    x: Math.min(item.width - 1, Math.max(0, cross.x + dx * step)),
    y: Math.min(item.height - 1, Math.max(0, cross.y + dy * step)),
  };
  view.draw();
  say(`cross at ${view.cross.x}, ${view.cross.y}: ${item.mask[view.cross.y * item.width + view.cross.x] ? "in" : "not in"} the mask`);
}

const KEYS = {
  Enter: () => send("accepted"),
  x: () => send("rejected"),
  e: () => send("empty"),
  ArrowRight: next,
  ArrowLeft: previous,
  "[": () => setLevel(Number($("level").value) - 1, true),
  "]": () => setLevel(Number($("level").value) + 1, true),
  "{": () => setLevel(Number($("level").value) - 10, true),
  "}": () => setLevel(Number($("level").value) + 10, true),
  v: () => choose("pan"),
  c: () => choose("pieces"),
  s: () => choose("segments"),
  b: () => choose("brush"),
  d: () => choose("erase"),
  r: solve,
  m: machine,
  z: undo,
  Z: redo,
  "0": () => view.fit(),
  "+": () => (view.radius ? resizeBrush(1.15) : view.zoom(1.25)),
  "-": () => (view.radius ? resizeBrush(1 / 1.15) : view.zoom(.8)),
  ".": () => { if (view.cross) use(view.cross); },
  " ": () => { view.options.hidden = !view.options.hidden; view.draw(); },
  "?": () => $("help").showModal(),
};

document.addEventListener("keydown", (event) => {
  timer.mark();
  if ($("help").open || event.ctrlKey || event.metaKey || event.altKey) return;
  const target = event.target;
  const types = target.matches('input:not([type]), input[type="number"], input[type="search"], textarea');
  if (types) return;
  // Controls keep the keys that work them.
  const native = target.matches("select") || (target.matches("input") && event.key.startsWith("Arrow"));
  const presses = [" ", "Enter"].includes(event.key) && target.matches("button, summary, select, a");
  const checks = event.key === " " && target.matches("input");
  if ((native && event.key !== "?") || presses || checks) return;
  if (event.shiftKey && event.key.startsWith("Arrow")) {
    event.preventDefault();
    moveCross(event.key);
    return;
  }
  const key = event.key.length === 1 && event.key !== "Z" ? event.key.toLowerCase() : event.key;
  const work = KEYS[key];
  if (work && !(event.repeat && ["Enter", "x", "e"].includes(key))) {
    event.preventDefault();
    work();
  }
});

// ---- controls ------------------------------------------------------------------------------------

const PRESSED = { accept: () => send("accepted"), reject: () => send("rejected"), empty: () => send("empty"), next, previous,
  undo, redo, solve, machine, fit: () => view.fit(), "show-help": () => $("help").showModal() };
for (const [id, work] of Object.entries(PRESSED)) $(id).addEventListener("click", () => { timer.mark(); work(); });

$("level").addEventListener("input", () => { timer.mark(); setLevel(Number($("level").value), false); });
$("level").addEventListener("change", () => setLevel(Number($("level").value), true));
for (const input of document.querySelectorAll('input[name="tool"]')) {
  input.addEventListener("change", () => choose(input.value));
}
$("brush").addEventListener("input", () => choose(tool));
for (const name of ["mask", "cam", "trimap"]) {
  $(`show-${name}`).addEventListener("change", (event) => {
    view.options[name] = event.target.checked;
    if (name === "trimap" && event.target.checked) loadTrimap();
    view.refresh();
  });
}
for (const name of ["opacity", "brightness", "contrast"]) {
  $(name).addEventListener("input", (event) => {
    view.options[name] = Number(event.target.value) / 100;
    view.refresh();
  });
}
$("apply").addEventListener("click", () => run(async () => {
  const [low, high] = [$("low").value, $("high").value];
  const window = low !== "" && high !== "" ? `${low},${high}` : "percentile";
  item.bitmap = await getBitmap(`/api/items/${item.id}/image?window=${encodeURIComponent(window)}`);
  view.draw();
}));
$("class").addEventListener("change", (event) => run(async () => {
  visited.splice(place + 1, 0, event.target.value);
  place += 1;
  await show(await getJson(`/api/items/${event.target.value}`));
}));

document.addEventListener("visibilitychange", () => (document.hidden ? timer.hide() : timer.show()));
setInterval(() => {
  if (item && !document.hidden) post(`/api/items/${item.id}/lease`, "").catch(() => {});
}, LEASE_EVERY);

choose("pan");
run(async () => {
  const told = await overview();
  $("annotator").value = told.annotator;
  sayAll([...told.remarks, ...await following()]);
});
