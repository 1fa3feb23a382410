"use strict";
const at = id => document.getElementById(id);
const text = (tag, value) => Object.assign(document.createElement(tag), {textContent: value});
const SILENCE = 6000;  // ms without a word from the server, which says something every two seconds
const LATE = 4000;  // ms without a picture of a stream that is said to run
const DELAYS = [1, 2, 4, 8, 15, 30];
let socket, last, url, facts, heard = 0, pictured = 0, tries = 0, retry = 0;
let settings = {}, classes = [], layers = [], steers = true, detects = false, state = "opening", busy = false, camera = null;
let followed = "";  // what the chart of scores is of
const past = {scores: [], rate: [], latency: []};

// The connection, and whether the page is alive.

function connect() {
  clearTimeout(retry);
  const mine = socket = new WebSocket(location.origin.replace(/^http/, "ws") + "/ws" + location.search);
  mine.binaryType = "blob";
  heard = performance.now();
  mine.onmessage = ({data}) => {
    heard = performance.now();
    tries = 0;
    if (data instanceof Blob) return show(data);
    const message = JSON.parse(data);
    if (message.type === "choices") choices(message);
    else if (message.type === "settings") stand(message);
    else if (message.type === "problem") problem(message.control, message.problem);
    else if (message.type === "state") become(message.state, message.sentence);
    else if (message.type === "progress") working(message.progress);
    else if (message.type === "frame") tell(message);
  };
  mine.onclose = () => { if (mine === socket) lost(); };
}

function lost() {
  socket.onclose = null;
  socket.close();
  stopCamera();
  working(null);
  const seconds = DELAYS[Math.min(tries++, DELAYS.length - 1)];
  become("lost", `The server has stopped or cannot be reached; trying again in ${seconds} s`);
  retry = setTimeout(connect, seconds * 1000);
}

function become(kind, sentence) {
  state = kind;
  at("sentence").textContent = sentence[0] ? sentence[0].toUpperCase() + sentence.slice(1) : "";
  at("state").hidden = kind === "live";
  at("restart").hidden = !["ended", "failed"].includes(kind);
  if (kind === "live") pictured = performance.now();
  liveness(kind === "live");
}

function liveness(alive) {
  at("figure").classList.toggle("dim", !alive);
  at("scores").classList.toggle("stale", !alive);
  at("charts").classList.toggle("stale", !alive);
  if (!alive) {
    at("facts").textContent = {lost: "not connected", ended: "ended", failed: "stopped", retrying: "no picture"}[state] ?? "waiting";
    for (const id of ["chart-score", "chart-fps", "chart-ms"]) at(id).textContent = "";
  }
}

setInterval(() => {
  const now = performance.now();
  if (socket && socket.readyState === WebSocket.OPEN && now - heard > SILENCE) return lost();
  const still = settings.paused || (settings.guest ?? "").includes("photograph");
  if (state !== "live" || still || busy) return;
  const seconds = Math.round((now - pictured) / 1000);
  const late = now - pictured > LATE;
  at("state").hidden = !late;
  if (late) at("sentence").textContent = `No new picture for ${seconds} s`;
  if (late || at("figure").classList.contains("dim")) liveness(!late);
}, 500);

function send(change) {
  if (socket.readyState !== WebSocket.OPEN) return;
  for (const name of Object.keys(change)) problem(name, "");
  problem("", "");
  socket.send(JSON.stringify(change));
}

// What is shown.

function show(blob) {
  const before = url;
  last = blob;
  url = URL.createObjectURL(blob);
  at("picture").src = url;
  pictured = performance.now();
  if (before) setTimeout(() => URL.revokeObjectURL(before), 1000);
}

function tell(message) {
  facts = message;
  at("facts").replaceChildren(text("b", message.rate.toFixed(1)), " frames/s \u00b7 ",
    text("b", Math.round(message.latency)), " ms",
    Object.assign(text("span", ` latency \u00b7 layer ${message.layers.join(", ")}`), {className: "wide"}));
  at("facts").title = message.layers.join(", ");
  if (at("doubt").textContent !== message.doubt) at("doubt").textContent = message.doubt;
  at("doubt").hidden = !message.doubt;
  const explained = new Set(message.explained.map(([name]) => name));
  const rows = message.scores.slice();
  if (!detects) for (const entry of message.explained) if (!rows.some(([name]) => name === entry[0])) rows.push(entry);
  at("scores").replaceChildren(...rows.map(([name, score]) => {
    const row = text("div", ""), line = text("div", ""), track = text("i", ""), bar = text("b", "");
    row.className = "score" + (detects || explained.has(name) ? " on" : "");
    const known = text("span", name);
    known.title = name;
    line.append(known, text("span", Number.isFinite(score) ? (score * 100).toFixed(1) + " %" : ""));
    bar.style.width = Math.max((score || 0) * 100, 1) + "%";
    track.append(bar);
    row.append(line, track);
    return row;
  }));
  const [name, score] = message.explained[0] ?? ["the class", NaN];
  const auto = settings.targets === null && !detects, what = auto ? "Top class:" : detects ? "Surest box:" : "Score of";
  const same = auto || detects ? "" : name;
  if (followed !== what + same) { followed = what + same; past.scores = []; }
  if (at("chart-what").textContent !== what) at("chart-what").textContent = what;
  if (at("chart-class").textContent !== name) at("chart-class").textContent = name;
  draw("scores", score, 1, at("chart-score"), Number.isFinite(score) ? (score * 100).toFixed(1) + " %" : "");
  draw("rate", message.rate, 0, at("chart-fps"), message.rate.toFixed(1));
  draw("latency", message.latency, 0, at("chart-ms"), Math.round(message.latency) + " ms");
}

function draw(name, value, top, label, words) {
  const values = past[name];
  values.push(Number.isFinite(value) ? value : null);
  if (values.length > 300) values.shift();
  label.textContent = words;
  // The first frame is slow: what is far above the others ends at the top edge and does not flatten them.
  const known = values.filter(v => v !== null).sort((a, b) => a - b);
  const most = top || Math.max(Math.min(known[known.length - 1] ?? 0, 3 * (known[known.length >> 1] ?? 0)), 1e-6) * 1.1;
  const step = 300 / Math.max(60, values.length - 1);
  let d = "", pen = false;
  values.forEach((v, i) => {
    if (v === null) { pen = false; return; }
    d += `${pen ? "L" : "M"}${(300 - (values.length - 1 - i) * step).toFixed(1)} ${(58 - 56 * Math.min(v / most, 1)).toFixed(1)}`;
    pen = true;
  });
  at("chart-" + name).firstElementChild.setAttribute("d", d);
}

function working(progress) {
  busy = progress !== null;
  at("progress").hidden = !busy;
  if (!busy) { pictured = performance.now(); return; }
  const share = progress.share === null ? "" : `, ${Math.round(progress.share * 100)} %`;
  at("progress-text").textContent = `${progress.method} takes long: ${progress.seconds.toFixed(0)} s${share}`;
  if (progress.share === null) at("progress-bar").removeAttribute("value"); else at("progress-bar").value = progress.share;
  liveness(false);
  at("facts").textContent = "explaining";
}

function problem(control, what) {
  const place = at(control + "-error") ?? at("problem");
  place.hidden = !what;
  place.textContent = what;
  const input = {targets: "target", layers: "layer"}[control] ?? control;
  if (at(input)) at(input).toggleAttribute("aria-invalid", Boolean(what));
}

// The controls.

function fill(element, values) {  // options that stay are kept: the list may be open
  const old = new Map([...element.options].map(option => [option.value, option])), offered = new Set(values.map(([value]) => value));
  for (const [value, option] of old) if (!offered.has(value)) option.remove();
  values.forEach(([value, words], i) => {
    const option = old.get(value) ?? Object.assign(document.createElement("option"), {value});
    if (option.textContent !== words) option.textContent = words;
    if (element.options[i] !== option) element.insertBefore(option, element.options[i] ?? null);
  });
}

function choices(message) {
  ({classes, layers, steers, detects} = message);
  at("boxes").hidden = !detects;
  at("fix").hidden = detects;
  at("auto").textContent = detects ? "All classes" : "Top class";
  at("target-label").textContent = detects ? "Classes" : "Class";
  at("target").placeholder = detects ? "all; or names, with commas" : "a name or number";
  at("layer").placeholder = detects ? "the maps its head reads" : "the last with a map";
  fill(at("method"), message.methods.map(({name, slow}) => [name, name + (slow ? " (slow)" : "")]));
  fill(at("colormap"), message.colormaps.map(name => [name, name]));
  at("source").dataset.name = message.source;
  at("watching").hidden = steers;
  for (const control of document.querySelectorAll("#look :is(input, select), #pause, #explain :is(input, select, button), #sources button, #cancel, #restart"))
    control.disabled = !steers;
  stand(message.settings);
}

function stand(now) {
  settings = now;
  for (const id of ["method", "colormap"]) at(id).value = now[id];
  for (const id of detects ? ["alpha", "smooth", "min_score"] : ["alpha", "smooth"]) {
    if (document.activeElement !== at(id)) at(id).value = now[id];
    at(id + "-value").textContent = Math.round(now[id] * 100) + " %";
  }
  const auto = now.targets === null;
  at("auto").setAttribute("aria-pressed", auto);
  if (document.activeElement !== at("target"))
    at("target").value = auto ? "" : [now.targets].flat().map(target => classes[target] ?? target).join(", ");
  if (document.activeElement !== at("layer")) at("layer").value = (now.layers ?? []).join(", ");
  at("pause").setAttribute("aria-pressed", now.paused);
  at("pause").textContent = now.paused ? "Go on" : "Pause";
  at("source").textContent = now.guest || at("source").dataset.name || "none yet: a webcam or a photograph";
  at("dismiss").hidden = !now.guest || !at("source").dataset.name;
  at("webcam").setAttribute("aria-pressed", camera !== null);
  const webcam = (now.guest ?? "").includes("webcam");
  if (camera && webcam) camera.known = true;  // its first picture has come
  if (camera?.known && !webcam) stopCamera();
}

function picker(input, list, values, choose) {
  let chosen = -1;
  const close = () => { list.hidden = true; input.setAttribute("aria-expanded", "false"); chosen = -1; };
  const pick = value => { input.value = value; close(); choose(value); };
  const open = all => {
    const wanted = all ? "" : input.value.trim().toLowerCase();
    const found = values().filter(value => value.toLowerCase().includes(wanted));
    found.sort((a, b) => b.toLowerCase().startsWith(wanted) - a.toLowerCase().startsWith(wanted));
    const rows = found.slice(0, 100).map(value => {
      const row = text("li", value);
      row.setAttribute("role", "option");
      row.onpointerdown = event => { event.preventDefault(); pick(value); };
      return row;
    });
    if (!rows.length || found.length > 100) {
      const note = text("li", rows.length ? `${found.length - 100} more: type to search` : "none of that name");
      note.className = "none";
      rows.push(note);
    }
    list.replaceChildren(...rows);
    list.hidden = false;
    chosen = -1;
    input.setAttribute("aria-expanded", "true");
  };
  input.onfocus = () => { input.select(); open(true); };
  input.oninput = () => open(false);
  input.onblur = close;
  input.onkeydown = event => {
    const rows = [...list.querySelectorAll("[role=option]")];
    if (event.key === "Enter") {
      const value = chosen >= 0 && !list.hidden ? rows[chosen].textContent : input.value.trim();
      pick(value);
    } else if (event.key === "Escape") close();
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (list.hidden) open(true);
      chosen = Math.max(0, Math.min(rows.length - 1, chosen + (event.key === "ArrowDown" ? 1 : -1)));
      rows.forEach((row, i) => row.setAttribute("aria-selected", i === chosen));
      rows[chosen]?.scrollIntoView({block: "nearest"});
    }
  };
}

picker(at("target"), at("target-list"), () => classes, value => {  // a class may have a comma in its name
  const names = detects ? value.split(",").map(name => name.trim()).filter(Boolean) : [value];
  send({targets: !value ? null : names.length > 1 && !classes.includes(value) ? names : value});
});
picker(at("layer"), at("layer-list"), () => layers, value => {
  const names = value.split(",").map(name => name.trim()).filter(Boolean);
  send({layers: names.length ? names : null});
});
at("auto").onclick = () => send({targets: null});
at("fix").onclick = () => { if (facts) send({targets: facts.explained[0][0]}); };
at("method").onchange = ({target}) => send({method: target.value});
at("colormap").onchange = ({target}) => send({colormap: target.value});
for (const id of ["alpha", "smooth", "min_score"]) at(id).oninput = ({target}) => send({[id]: Number(target.value)});
at("pause").onclick = () => send({paused: !settings.paused});
at("cancel").onclick = () => send({cancel: true});
at("restart").onclick = () => send({restart: true});

// A snapshot carries class and score: written below the picture, and in the file's name.

at("snapshot").onclick = async () => {
  if (!last || !facts) return;
  const picture = await createImageBitmap(last), told = facts;
  const [name, score] = told.explained[0] ?? ["", NaN];
  const words = name + (Number.isFinite(score) ? `  ${(score * 100).toFixed(1)} %` : "");
  const size = Math.max(12, Math.round(picture.width / 40)), strip = Math.round(size * 2);
  const canvas = Object.assign(document.createElement("canvas"), {width: picture.width, height: picture.height + strip});
  const pen = canvas.getContext("2d");
  pen.fillStyle = "#101317";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(picture, 0, 0);
  pen.fillStyle = "#ffffff";
  pen.font = `${size}px system-ui, sans-serif`;
  pen.textBaseline = "middle";
  pen.fillText(`${words}  \u00b7  ${settings.method}`, size / 2, picture.height + strip / 2, canvas.width - size);
  canvas.toBlob(blob => {
    const plain = name.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "");
    const percent = Number.isFinite(score) ? `-${Math.round(score * 100)}pct` : "";
    const link = Object.assign(document.createElement("a"),
      {href: URL.createObjectURL(blob), download: `camfast-${plain}${percent}-${told.number}.jpg`});
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }, "image/jpeg", 0.92);
};

// Pictures of this browser: its webcam, and photographs.

function offer(kind, blob) {
  if (socket.readyState === WebSocket.OPEN) socket.send(new Blob([new Uint8Array([kind]), blob]));
}

async function startCamera() {
  problem("source", "");
  if (!navigator.mediaDevices) return problem("source", "The browser gives its webcam to https and this machine's own pages alone");
  try {
    const stream = await navigator.mediaDevices.getUserMedia({video: {width: {ideal: 1280}, height: {ideal: 720}}});
    const video = Object.assign(document.createElement("video"), {srcObject: stream, muted: true, playsInline: true});
    await video.play();
    const canvas = document.createElement("canvas");
    const mine = camera = {stream, timer: 0, known: false};
    const step = () => {
      if (camera !== mine) return;
      mine.timer = setTimeout(step, 66);
      if (socket.bufferedAmount > 1 << 17 || document.hidden || !video.videoWidth) return;  // the network is slower
      canvas.width = video.videoWidth;
      canvas.height = video.videoHeight;
      canvas.getContext("2d").drawImage(video, 0, 0);
      canvas.toBlob(blob => { if (camera === mine && blob) offer(1, blob); }, "image/jpeg", 0.85);
    };
    step();
    at("webcam").setAttribute("aria-pressed", true);
    at("figure").scrollIntoView({block: "nearest", behavior: "smooth"});
    stream.getVideoTracks()[0].onended = () => {
      if (camera === mine) { stopCamera(); problem("source", "The webcam has stopped"); send({dismiss: true}); }
    };
  } catch (error) {
    problem("source", `The webcam cannot be used: ${error.message}`);
  }
}

function stopCamera() {
  if (!camera) return;
  clearTimeout(camera.timer);
  for (const track of camera.stream.getTracks()) track.stop();
  camera = null;
  at("webcam").setAttribute("aria-pressed", false);
}

function photograph(file) {
  stopCamera();
  problem("source", "");
  if (file.size > (1 << 23) - 16) return problem("source", "A photograph of up to 8 MB is expected");
  offer(2, file);
  at("figure").scrollIntoView({block: "nearest", behavior: "smooth"});
}

at("webcam").onclick = () => { if (camera) { stopCamera(); send({dismiss: true}); } else startCamera(); };
at("photo").onclick = () => at("file").click();
at("file").onchange = ({target}) => { if (target.files[0]) photograph(target.files[0]); target.value = ""; };
at("dismiss").onclick = () => { stopCamera(); send({dismiss: true}); };
addEventListener("dragover", event => { event.preventDefault(); at("drop").hidden = !steers; });
addEventListener("dragleave", event => { if (!event.relatedTarget) at("drop").hidden = true; });
addEventListener("drop", event => {
  event.preventDefault();
  at("drop").hidden = true;
  const [file] = event.dataTransfer.files;
  if (file && steers) photograph(file);
});
connect();
