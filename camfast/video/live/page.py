"""The page of ``camfast live``: one file, nothing from elsewhere."""

from __future__ import annotations

__all__ = ["PAGE"]

PAGE = r"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>camfast live</title>
<link rel="icon" href="data:,">
<style>
:root { color-scheme: dark; --ground: #101317; --card: #181c22; --line: #2a3038; --ink: #e9ecf0; --soft: #939ba6; --hot: #ff6b4a }
* { box-sizing: border-box }
body { margin: 0; min-height: 100vh; background: var(--ground); color: var(--ink); font: 15px/1.45 system-ui, sans-serif }
header { display: flex; align-items: baseline; gap: 18px; padding: 16px 24px }
h1 { margin: 0; font-size: 18px; letter-spacing: .01em }
h1 span { color: var(--hot) }
#facts { margin-left: auto; color: var(--soft); font-variant-numeric: tabular-nums }
#facts b { color: var(--ink); font-weight: 600 }
main { display: grid; grid-template-columns: minmax(0, 1fr) 320px; gap: 20px; padding: 0 24px 24px }
#stage { display: flex; flex-direction: column; gap: 14px; min-width: 0 }
figure { margin: 0; position: relative; background: #000; border-radius: 14px; overflow: hidden; min-height: 120px }
#picture { width: 100%; max-height: calc(100vh - 230px); object-fit: contain; display: block }
#look { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 4px 20px; align-items: end }
#problem { position: absolute; left: 16px; right: 16px; bottom: 16px; padding: 10px 14px; border-radius: 10px;
  background: #3b1713ee; color: #ffd9d0 }
#problem[hidden] { display: none }
aside { display: flex; flex-direction: column; gap: 14px }
section { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 16px }
h2 { margin: 0 0 10px; font-size: 12px; letter-spacing: .08em; text-transform: uppercase; color: var(--soft); font-weight: 600 }
.score { margin: 8px 0 }
.score div { display: flex; justify-content: space-between; gap: 10px }
.score div span:first-child { white-space: nowrap; overflow: hidden; text-overflow: ellipsis }
.score i { display: block; height: 6px; border-radius: 3px; background: var(--line); margin-top: 4px; overflow: hidden }
.score i b { display: block; height: 100%; background: #5b8def; border-radius: 3px }
.score.on i b { background: var(--hot) }
label { display: block; margin: 10px 0 4px; color: var(--soft) }
label output { float: right; color: var(--ink); font-variant-numeric: tabular-nums }
select, input[type=text] { width: 100%; padding: 8px 10px; border-radius: 9px; border: 1px solid var(--line);
  background: var(--ground); color: var(--ink); font: inherit }
input[type=range] { width: 100%; accent-color: var(--hot) }
.row { display: flex; gap: 8px }
button { flex: 1; padding: 9px 12px; border-radius: 9px; border: 1px solid var(--line); background: var(--ground);
  color: var(--ink); font: inherit; cursor: pointer }
button:hover { border-color: var(--soft) }
button[aria-pressed=true] { background: var(--hot); border-color: var(--hot); color: #1a0d09 }
:focus-visible { outline: 2px solid var(--hot); outline-offset: 2px }
@media (max-width: 860px) { main { grid-template-columns: 1fr } }
</style>
<header><h1>cam<span>fast</span> live</h1><div id="facts">connecting</div></header>
<main>
  <div id="stage">
    <figure><img id="picture" alt="The explained stream"><div id="problem" role="alert" hidden></div></figure>
    <section id="look">
      <div><label for="colormap">Colours</label><select id="colormap"></select></div>
      <div><label for="alpha">Strength <output id="alpha-value"></output></label>
        <input type="range" id="alpha" min="0" max="1" step="0.05"></div>
      <div><label for="smooth">Smoothing <output id="smooth-value"></output></label>
        <input type="range" id="smooth" min="0" max="0.95" step="0.05"></div>
      <div class="row"><button id="pause">Pause</button><button id="snapshot">Snapshot</button></div>
    </section>
  </div>
  <aside>
    <section><h2>What it sees</h2><div id="scores"></div></section>
    <section>
      <h2>Explain</h2>
      <div class="row"><button id="auto">Top class</button><button id="fix">Hold this</button></div>
      <label for="target">Class</label><input type="text" id="target" list="classes" placeholder="a name or number">
      <datalist id="classes"></datalist>
      <label for="method">Method</label><select id="method"></select>
      <label for="layer">Layer</label><input type="text" id="layer" list="layers" placeholder="the last with a map">
      <datalist id="layers"></datalist>
    </section>
  </aside>
</main>
<script>
"use strict";
const at = id => document.getElementById(id);
let socket, last, url, facts, settings = {}, classes = [];

function connect() {
  socket = new WebSocket(location.origin.replace(/^http/, "ws") + "/ws");
  socket.binaryType = "blob";
  socket.onmessage = ({data}) => {
    if (data instanceof Blob) return show(data);
    const message = JSON.parse(data);
    if (message.type === "choices") choices(message);
    else if (message.type === "settings") stand(message);
    else if (message.type === "problem") problem(message.problem);
    else tell(message);
  };
  socket.onclose = () => { at("facts").textContent = "not connected, trying again"; setTimeout(connect, 1500); };
}

function send(change) {
  if (socket.readyState === WebSocket.OPEN) { problem(""); socket.send(JSON.stringify(change)); }
}

function show(blob) {
  const before = url;
  last = blob;
  url = URL.createObjectURL(blob);
  at("picture").src = url;
  if (before) setTimeout(() => URL.revokeObjectURL(before), 1000);
}

function fill(element, values) {
  element.replaceChildren(...values.map(value => Object.assign(document.createElement("option"), {value, textContent: value})));
}

function choices(message) {
  classes = message.classes;
  fill(at("method"), message.methods);
  fill(at("colormap"), message.colormaps);
  fill(at("classes"), message.classes);
  fill(at("layers"), message.layers);
  stand(message.settings);
}

function stand(now) {
  settings = now;
  for (const id of ["method", "colormap"]) at(id).value = now[id];
  for (const id of ["alpha", "smooth"]) {
    if (document.activeElement !== at(id)) at(id).value = now[id];
    at(id + "-value").textContent = Math.round(now[id] * 100) + " %";
  }
  const auto = now.targets === null;
  at("auto").setAttribute("aria-pressed", auto);
  if (document.activeElement !== at("target")) at("target").value = auto ? "" : classes[now.targets] ?? now.targets;
  if (document.activeElement !== at("layer")) at("layer").value = (now.layers ?? []).join(", ");
  at("pause").setAttribute("aria-pressed", now.paused);
  at("pause").textContent = now.paused ? "Go on" : "Pause";
}

function tell(message) {
  facts = message;
  const text = (tag, value) => Object.assign(document.createElement(tag), {textContent: value});
  at("facts").replaceChildren(text("b", message.rate.toFixed(1)), " frames/s \u00b7 ",
    text("b", Math.round(message.latency)), " ms latency \u00b7 layer ", message.layers.join(", "));
  const explained = new Set(message.explained.map(([name]) => name));
  const rows = message.scores.slice();
  for (const entry of message.explained) if (!rows.some(([name]) => name === entry[0])) rows.push(entry);
  at("scores").replaceChildren(...rows.map(([name, score]) => {
    const row = text("div", ""), line = text("div", ""), track = text("i", ""), bar = text("b", "");
    row.className = "score" + (explained.has(name) ? " on" : "");
    line.append(text("span", name), text("span", (score * 100).toFixed(1) + " %"));
    bar.style.width = Math.max(score * 100, 1) + "%";
    track.append(bar);
    row.append(line, track);
    return row;
  }));
}

function problem(what) { at("problem").hidden = !what; at("problem").textContent = what; }

at("auto").onclick = () => send({targets: null});
at("fix").onclick = () => { if (facts) send({targets: facts.explained[0][0]}); };
at("target").onchange = ({target}) => send({targets: target.value.trim() || null});
at("method").onchange = ({target}) => send({method: target.value});
at("layer").onchange = ({target}) => {
  const names = target.value.split(",").map(name => name.trim()).filter(Boolean);
  send({layers: names.length ? names : null});
};
at("colormap").onchange = ({target}) => send({colormap: target.value});
for (const id of ["alpha", "smooth"]) at(id).oninput = ({target}) => send({[id]: Number(target.value)});
at("pause").onclick = () => send({paused: !settings.paused});
at("snapshot").onclick = () => {
  if (!last) return;
  const link = document.createElement("a");
  Object.assign(link, {href: URL.createObjectURL(last), download: `camfast-${facts.number}.jpg`});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
};
connect();
</script>
</html>
"""
