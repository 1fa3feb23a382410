"use strict";
const report = (() => {
const at = id => document.getElementById(id);
const add = (parent, tag, name = "", text = null) => {
  const made = parent.appendChild(document.createElement(tag));
  if (name) made.className = name;
  if (text !== null) made.textContent = text;
  return made;
};
const percent = (value, digits = 1) => value == null ? "" : (100 * value).toFixed(digits) + " %";
const wide = share => (100 * share).toFixed(1) + "%";
const many = (count, what, all = what + "s") => count.toLocaleString("en") + " " + (count === 1 ? what : all);
const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
const NONE = -1, KEPT = 60, CLASSES = 24;  // KEPT: scripts of details that stay in memory

let facts, colors, order = "", shown = [], drawn = 0, open = null;
const all = {folder: [], name: [], label: [], prediction: [], probability: [], inside: []};
const loaded = new Map(), waiting = new Map();

// What the scripts beside this page call.

function images(columns) { for (const key in all) for (const value of columns[key]) all[key].push(value); }

function details(number, list, maps) {
  const data = bytes(maps);
  let start = 0;
  for (const one of list)
    for (const row of one[3]) row.map = data.subarray(start, start += row[5] * row[6]);
  loaded.set(number, list);
  if (loaded.size > KEPT) loaded.delete(loaded.keys().next().value);
}

/** Height, width, crop, rows, best classes, boxes, their share and whether there is a small picture; when they are there. */
function detailsOf(image) {
  const number = Math.floor(image / facts.details), place = image % facts.details;
  if (loaded.has(number)) return Promise.resolve(loaded.get(number)[place]);
  if (!waiting.has(number))
    waiting.set(number, new Promise((done, failed) => {
      const script = document.createElement("script");
      script.src = `data/details-${String(number).padStart(5, "0")}.js`;
      script.onload = () => { waiting.delete(number); script.remove(); done(loaded.get(number)); };
      script.onerror = () => { waiting.delete(number); script.remove(); failed(new Error(`cannot read ${script.src}`)); };
      document.head.append(script);
    }));
  return waiting.get(number).then(list => list[place]);
}

// Names and addresses.

const nameOf = number => number === NONE ? "no class" : facts.names[number] ?? `class ${number}`;
const pathOf = image => facts.folders[all.folder[image]][0] + all.name[image];
function linkOf(image) {
  try { return facts.folders[all.folder[image]][1] + encodeURIComponent(all.name[image]); } catch { return ""; }
}
const outcomeOf = image => all.label[image] === NONE || all.prediction[image] === NONE ? "unknown" :
  all.label[image] === all.prediction[image] ? "right" : "wrong";

// Heat: a small map, grown by interpolation, in colours.

function paint(canvas, map, height, width, shape) {
  const side = 112, ratio = Math.min(Math.max(shape, .1), 10);
  const w = canvas.width = ratio >= 1 ? side : Math.max(1, Math.round(side * ratio));
  const h = canvas.height = ratio >= 1 ? Math.max(1, Math.round(side / ratio)) : side;
  const context = canvas.getContext("2d"), picture = context.createImageData(w, h);
  const cell = (place, size, cells) => {
    const x = Math.min(Math.max((place + .5) * cells / size - .5, 0), cells - 1), low = Math.floor(x);
    return [low, Math.min(low + 1, cells - 1), x - low];
  };
  const across = Array.from({length: w}, (_, x) => cell(x, w, width));
  for (let y = 0, i = 0; y < h; y++) {
    const [top, bottom, down] = cell(y, h, height);
    for (const [left, right, over] of across) {
      const upper = map[top * width + left] * (1 - over) + map[top * width + right] * over;
      const lower = map[bottom * width + left] * (1 - over) + map[bottom * width + right] * over;
      const color = 3 * Math.round(upper * (1 - down) + lower * down);
      picture.data[i++] = colors[color]; picture.data[i++] = colors[color + 1]; picture.data[i++] = colors[color + 2];
      picture.data[i++] = 255;
    }
  }
  context.putImageData(picture, 0, 0);
}

const place = (element, [left, top, right, bottom], height, width) => Object.assign(element.style, {
  left: 100 * left / width + "%", top: 100 * top / height + "%",
  width: 100 * (right - left) / width + "%", height: 100 * (bottom - top) / height + "%"});

/** The photograph with the heat of `row`, `high` pixels high at most; what the network did not see is grey. */
function photo(parent, image, detail, row, high, full = false) {
  const [height, width, crop, , , boxes, , small] = detail;
  const frame = add(parent, "div", "photo");
  Object.assign(frame.style, {aspectRatio: `${width} / ${height}`, width: `min(100%, ${high * width / height}px)`});
  const picture = document.createElement("img"), sources = [linkOf(image)];
  if (small) sources.splice(full ? 1 : 0, 0, `pictures/${String(image).padStart(6, "0")}.jpg`);
  const missing = () => {
    picture.remove();
    add(frame, "em", "", "No picture: the file is elsewhere, or no browser shows its kind");
  };
  picture.alt = `${pathOf(image)}, heat of ${row ? nameOf(row[0]) : "nothing"}`;
  picture.decoding = "async";
  picture.onerror = () => sources.length ? picture.src = sources.shift() : missing();
  frame.append(picture);
  picture.src = sources.shift();
  const seen = crop || [0, 0, width, height];
  if (row) {
    const heat = add(frame, "canvas");
    paint(heat, row.map, row[5], row[6], (seen[2] - seen[0]) / (seen[3] - seen[1]));
    place(heat, seen, height, width);
  }
  if (crop) {
    const [left, top, right, bottom] = crop;  // strips: backdrops are not clipped by a path
    for (const strip of [[0, 0, width, top], [0, bottom, width, height], [0, top, left, bottom], [right, top, width, bottom]])
      if (strip[2] > strip[0] && strip[3] > strip[1]) place(add(frame, "div", "unseen"), strip, height, width);
    place(add(frame, "div", "edge"), crop, height, width);
  }
  for (const box of boxes) place(add(frame, "div", "box"), box, height, width);
  return frame;
}

function rowsFor(image, rows, wanted) {
  const of = number => rows.find(row => row[0] === number);
  const prediction = of(all.prediction[image]) ?? rows[0], label = of(all.label[image]);
  if (wanted === "both") return label && label !== prediction ? [prediction, label] : [prediction];
  return [wanted === "label" ? label ?? prediction : prediction];
}

function card(parent, image, wanted, list) {
  const made = add(parent, "figure", "card"), button = add(made, "button"), caption = add(made, "figcaption");
  made.dataset.image = image;
  button.type = "button";
  button.setAttribute("aria-label", "larger: " + pathOf(image));
  button.onclick = () => enlarge(image, list);
  const top = add(caption, "div", "top"), outcome = outcomeOf(image);
  add(top, "span", outcome === "wrong" ? "false" : "", nameOf(all.prediction[image])).title = nameOf(all.prediction[image]);
  add(top, "span", "", percent(all.probability[image]));
  if (outcome === "wrong") add(caption, "p", "", "true: " + nameOf(all.label[image]));
  if (all.inside[image] != null) add(caption, "p", "inside", percent(all.inside[image], 0) + " of the heat inside");
  const path = add(caption, "p"), link = add(path, "a", "", all.name[image]);
  link.href = linkOf(image);
  link.title = pathOf(image);
  link.target = "_blank";
  detailsOf(image).then(detail => {
    const rows = rowsFor(image, detail[3], wanted);
    for (const row of rows) {
      const side = add(button, "span", "side");
      photo(side, image, detail, row, 190);
      if (row && (wanted !== "prediction" || row[0] !== all.prediction[image])) add(side, "small", "", nameOf(row[0]));
    }
  }).catch(error => add(button, "span", "side", error.message));
}

// Lists that grow by a button.

function grow(button, what, list, step, draw) {
  let count = 0;
  const more = () => {
    for (const one of list.slice(count, count + step)) draw(one);
    count = Math.min(count + step, list.length);
    button.hidden = count === list.length;
    button.textContent = `More ${what}: ${(list.length - count).toLocaleString("en")} left`;
  };
  button.onclick = more;
  more();
}

function drawPairs() {
  at("confused").hidden = at("to-confused").hidden = !facts.pairs.length;
  const members = new Map(facts.pairs.slice(0, 2000).map(([label, prediction]) => [label + " " + prediction, []]));
  for (const image of sorted("certain")) if (outcomeOf(image) === "wrong")
    members.get(all.label[image] + " " + all.prediction[image])?.push(image);
  grow(at("more-pairs"), "pairs", facts.pairs, 4, ([label, prediction, count]) => {
    const pair = add(at("pairs"), "div", "pair-of-classes"), head = add(pair, "div", "pair-head");
    add(head, "b", "", nameOf(label));
    add(head, "span", "", "taken for");
    add(head, "b", "false", nameOf(prediction));
    add(head, "span", "", many(count, "image"));
    const button = add(head, "button", "", "Show all");
    button.onclick = () => choose({label, prediction, outcome: "wrong"});
    const list = members.get(label + " " + prediction) ?? [], strip = add(pair, "div", "strip");
    for (const image of list.slice(0, facts.ofPair)) card(strip, image, "both", list);
  });
}

function drawClasses() {
  const share = one => one.scored ? one.right / one.scored : 2;
  const by = {
    right: (a, b) => share(a) - share(b) || b.images - a.images || b.predicted - a.predicted,
    images: (a, b) => b.images - a.images || b.predicted - a.predicted,
    name: (a, b) => nameOf(a.class).localeCompare(nameOf(b.class), "en")};
  const list = facts.classes.slice().sort((a, b) => by[at("class-order").value](a, b) || a.class - b.class);
  at("class-cards").replaceChildren();
  grow(at("more-classes"), "classes", list, CLASSES, one => {
    const made = add(at("class-cards"), "button", "class"), canvas = add(made, "canvas");
    made.onclick = () => choose(one.images ? {label: one.class} : {prediction: one.class});
    if (one.map) paint(canvas, bytes(one.map), ...one.size, one.crop[0] / one.crop[1]);
    else canvas.width = canvas.height = 1;
    const text = add(made, "div");
    add(text, "b", "", nameOf(one.class)).title = nameOf(one.class);
    if (one.scored) {
      add(text, "span", "", `${one.right} of ${one.scored} right`);
      add(add(text, "span", "meter"), "b").style.width = wide(one.right / one.scored);
    }
    add(text, "span", "", `predicted ${one.predicted.toLocaleString("en")}x, heat of ${many(one.maps, "image")}`);
  });
}

function drawBars() {
  const most = Math.max(1, ...facts.histogram.map(bin => bin[0] + bin[1] + bin[2])), bins = facts.histogram.length;
  const kinds = ["right", "wrong", "unknown"];
  kinds.forEach((kind, k) => document.querySelector(".key." + kind).hidden = !facts.histogram.some(bin => bin[k]));
  facts.histogram.forEach((bin, i) => {
    const bar = add(at("bars"), "button"), low = 100 * i / bins, high = 100 * (i + 1) / bins;
    bar.title = `${low} to ${high} %: ${many(bin[0] + bin[1] + bin[2], "image")}` + (bin[1] ? `, ${bin[1]} wrong` : "");
    bar.setAttribute("aria-label", bar.title);
    bar.onclick = () => choose({low, high});
    for (const k of [2, 1, 0]) if (bin[k]) add(bar, "i", kinds[k]).style.height = 100 * bin[k] / most + "%";
  });
}

// Filters, orders, and the address that keeps them.

const ORDERS = {errors: "Errors first", uncertain: "Least certain", certain: "Most certain", outside: "Heat outside", path: "As they came"};
const FIELDS = ["words", "outcome", "label", "prediction", "low", "high", "heat"];
const orders = new Map();

function sorted(name) {
  if (!orders.has(name)) {
    const sure = Float64Array.from(all.probability, value => value ?? 0);
    const inside = Float64Array.from(all.inside, value => value ?? 2);
    const wrong = Uint8Array.from(sure, (_, i) => outcomeOf(i) === "wrong");
    const by = {
      errors: (a, b) => wrong[b] - wrong[a] || sure[b] - sure[a] || a - b,
      uncertain: (a, b) => sure[a] - sure[b] || a - b,
      certain: (a, b) => sure[b] - sure[a] || a - b,
      outside: (a, b) => inside[a] - inside[b] || a - b,
      path: (a, b) => a - b};
    orders.set(name, Uint32Array.from(sure, (_, i) => i).sort(by[name]));
  }
  return orders.get(name);
}

function wantedImages() {
  const value = id => at(id).value, number = id => value(id) === "" ? null : Number(value(id));
  const words = value("words").toLowerCase().split(/\s+/).filter(Boolean);
  const outcome = value("outcome"), label = number("label"), prediction = number("prediction");
  const low = number("low") === null ? -1 : number("low") / 100 - 1e-9, high = number("high") === null ? 2 : number("high") / 100 + 1e-9;
  const limited = low >= 0 || high < 2, texts = new Map();
  const textOf = number => {
    if (!texts.has(number)) texts.set(number, number === NONE ? "" : nameOf(number).toLowerCase());
    return texts.get(number);
  };
  return Array.from(sorted(order)).filter(image => {
    if (outcome && outcomeOf(image) !== outcome) return false;
    if (label !== null && all.label[image] !== label || prediction !== null && all.prediction[image] !== prediction) return false;
    const sure = all.probability[image];
    if (limited && (sure === null || sure < low || sure > high)) return false;
    if (!words.length) return true;
    const text = pathOf(image).toLowerCase() + "\n" + textOf(all.label[image]) + "\n" + textOf(all.prediction[image]);
    return words.every(word => text.includes(word));
  });
}

function show() {
  shown = wantedImages();
  drawn = 0;
  const right = shown.filter(image => outcomeOf(image) === "right").length, wrong = shown.filter(image => outcomeOf(image) === "wrong").length;
  at("count").textContent = `${shown.length.toLocaleString("en")} of ${many(all.name.length, "image")}` +
    (right + wrong ? `, ${percent(right / (right + wrong))} of those with a label right` : "");
  at("cards").replaceChildren();
  at("cards").className = at("heat").value === "both" ? "both" : "";
  for (const button of at("orders").children) button.setAttribute("aria-pressed", button.dataset.order === order);
  const state = new URLSearchParams();
  for (const id of FIELDS) if (at(id).value !== at(id).dataset.usual) state.set(id, at(id).value);
  if (order !== at("orders").dataset.usual) state.set("order", order);
  if (String(state) !== location.hash.slice(1)) history.replaceState(null, "", String(state) ? "#" + state : location.pathname + location.search);
  more();
}

function more() {
  for (const image of shown.slice(drawn, drawn + facts.shown)) card(at("cards"), image, at("heat").value, shown);
  drawn = Math.min(drawn + facts.shown, shown.length);
  at("more").hidden = drawn === shown.length;
}

function choose(values) {
  for (const id of FIELDS) at(id).value = id === "heat" ? at(id).value : values[id] ?? at(id).dataset.usual;
  show();
  at("images").scrollIntoView();
}

function fill(id, key) {
  const counts = new Map();
  for (const number of all[key]) if (number !== NONE) counts.set(number, (counts.get(number) ?? 0) + 1);
  add(at(id), "option", "", "any").value = "";
  const list = [...counts].map(([number, count]) => [nameOf(number), number, count]).sort((a, b) => a[0].localeCompare(b[0], "en") || a[1] - b[1]);
  for (const [name, number, count] of list) add(at(id), "option", "", `${name} (${count.toLocaleString("en")})`).value = number;
  at(id).parentElement.hidden = !list.length;
}

// One image, large.

function enlarge(image, list) {
  open = {image, list, row: 0};
  at("one").showModal();
  drawOne();
}

function drawOne() {
  const {image, list} = open, place = list.indexOf(image);
  at("previous").disabled = place <= 0;
  at("next").disabled = place < 0 || place === list.length - 1;
  at("one-name").textContent = all.name[image];
  detailsOf(image).then(detail => {
    if (open?.image !== image) return;
    const [, , crop, rows, best, boxes, covered] = detail, facts_ = at("one-facts"), row = rows[open.row] ?? rows[0];
    at("one-stage").replaceChildren();
    facts_.replaceChildren();
    photo(at("one-stage"), image, detail, row, Math.max(220, innerHeight - 150), true);
    if (all.label[image] !== NONE) {
      const line = add(facts_, "p", "", "True class: ");
      add(line, "b", "", nameOf(all.label[image]));
    }
    add(facts_, "h2", "", "Heat of");
    const targets = add(facts_, "div", "targets");
    rows.forEach((one, i) => {
      const button = add(targets, "button", "", nameOf(one[0]) + (one[3] == null ? "" : `, ${percent(one[3])}`));
      button.setAttribute("aria-pressed", one === row);
      button.onclick = () => { open.row = i; drawOne(); };
    });
    if (row[4] != null) {
      const share = covered == null ? "" : ` The boxes cover ${percent(covered, 0)} of what the network saw.`;
      add(facts_, "p", "", `${percent(row[4], 0)} of this heat is inside.${share}`).style.marginTop = "10px";
    }
    if (best.length) add(facts_, "h2", "", "What it sees");
    const chances = best.every(([, score]) => score >= 0 && score <= 1), top = Math.max(...best.map(([, score]) => score));
    const low = chances ? 0 : Math.min(...best.map(([, score]) => score), 0);
    for (const [number, score] of best) {
      const line = add(facts_, "div", "score"), names = add(line, "div");
      add(names, "span", "", nameOf(number)).title = nameOf(number);
      add(names, "span", "", score == null ? "" : chances ? percent(score) : score.toFixed(2));
      add(add(line, "span", "meter"), "b").style.width = wide(chances ? score : (score - low) / (top - low || 1));
    }
    if (crop) add(facts_, "p", "note", "What is grey the network did not see.");
    const link = add(add(facts_, "p"), "a", "", pathOf(image));
    link.href = linkOf(image);
    link.target = "_blank";
  }).catch(error => at("one-stage").textContent = error.message);
}

function step(by) {
  const place = open.list.indexOf(open.image) + by;
  if (place < 0 || place >= open.list.length) return;
  open = {...open, image: open.list[place], row: 0};
  drawOne();
}

function strength(value) {
  document.body.style.setProperty("--strength", value);
  at("strength-value").textContent = percent(Number(value), 0);
}

function ready() {
  const labelled = all.label.some(number => number !== NONE);
  fill("label", "label");
  fill("prediction", "prediction");
  for (const id of FIELDS) at(id).dataset.usual = at(id).value;
  for (const id of ["outcome", "heat"]) at(id).parentElement.hidden = !labelled;
  at("low").closest("div").hidden = !all.probability.some(value => value !== null);
  order = at("orders").dataset.usual = labelled ? "errors" : "uncertain";
  for (const [name, text] of Object.entries(ORDERS)) {
    if (name === "errors" && !labelled || name === "outside" && !facts.boxes) continue;
    const button = add(at("orders"), "button", "", text);
    button.dataset.order = name;
    button.onclick = () => { order = name; show(); };
  }
  const state = new URLSearchParams(location.hash.slice(1));
  for (const id of FIELDS) if (state.has(id)) at(id).value = state.get(id);
  if (ORDERS[state.get("order")]) order = state.get("order");
  at("filters").onsubmit = event => event.preventDefault();
  at("filters").onreset = () => setTimeout(() => { at("strength").value = facts.alpha; strength(facts.alpha); order = at("orders").dataset.usual; show(); });
  let later;
  for (const id of FIELDS) at(id).oninput = () => { clearTimeout(later); later = setTimeout(show, id === "words" ? 200 : 0); };
  at("strength").value = facts.alpha;
  at("strength").oninput = () => strength(at("strength").value);
  strength(facts.alpha);
  at("more").onclick = more;
  at("class-order").onchange = drawClasses;
  at("previous").onclick = () => step(-1);
  at("next").onclick = () => step(1);
  at("close").onclick = () => at("one").close();
  at("one").onclick = event => { if (event.target === at("one")) at("one").close(); };
  at("one").onclose = () => { open = null; };
  at("one").onkeydown = event => { if (event.key === "ArrowLeft") step(-1); if (event.key === "ArrowRight") step(1); };
  drawBars();
  drawPairs();
  drawClasses();
  show();
  if (String(state)) at("images").scrollIntoView();
}

return {summary: values => { facts = values; colors = bytes(values.colors); }, images, details, ready};
})();
