const $ = (id) => document.getElementById(id);
const paper = $("paper"), ink = paper.getContext("2d"), SIDE = paper.width, STEP = SIDE / 28;
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const bars = Array.from({ length: 10 }, () => $("bars").appendChild(document.createElement("li")));
const percent = (part) => `${(100 * part).toFixed(1)}\u00a0%`;
const place = (event) => [event.offsetX, event.offsetY].map((v) => (v * SIDE) / paper.clientWidth);
const sentence = (text = "") => text && text[0].toUpperCase() + text.slice(1).replace(/\.?$/, ".");
let at, timer, pointer; // the pen's place; the timer that sends; the pointer that draws
let reading, picture; // the file that is being read; the last picture
let busy, failed; // whether a picture is being answered; whether the last one got no answer

function clear() {
  timer = clearTimeout(timer);
  pointer = reading = picture = null;
  ink.fillStyle = "white";
  ink.fillRect(0, 0, SIDE, SIDE);
  $("pen").className = "";
  move([SIDE / 2, SIDE / 2]);
  show("");
}

function move(to) {
  // A stroke along the rim would be taken for what the paper lies on (REACH in digit.py).
  at = to.map((value) => Math.min(Math.max(value, 2.5 * STEP), SIDE - 2.5 * STEP));
  [$("pen").style.left, $("pen").style.top] = at.map((value) => `${(100 * value) / SIDE}%`);
}

function draw(to) {
  Object.assign(ink, { lineWidth: SIDE / 14, lineCap: "round", lineJoin: "round" });
  ink.beginPath();
  ink.moveTo(...at);
  move(to);
  ink.lineTo(at[0] + 0.01, at[1]); // without any length there would be no dot
  ink.stroke();
  timer ??= setTimeout(sendDrawing, 150);
  reading = null;
  $("labels").disabled = true; // only a whole drawing can be corrected
}

function sendDrawing() {
  timer = clearTimeout(timer);
  const encoded = atob(paper.toDataURL().split(",")[1]); // after a stroke, toBlob may wait for a second
  send(new Blob([Uint8Array.from(encoded, (c) => c.charCodeAt(0))], { type: "image/png" }));
}

async function take(file) {
  if (!file) return;
  clear();
  reading = file;
  const bytes = await file.arrayBuffer().catch(() => null);
  if (reading !== file) return; // it was cleared, or something was drawn
  if (!bytes) return show("This file cannot be read.");
  send(new Blob([bytes], { type: "image/*" })); // the browser does not know every type
  const photo = await createImageBitmap(file).catch(() => null);
  if (!photo || reading !== file) return; // only the server can read it, or it was cleared
  const scale = SIDE / Math.max(photo.width, photo.height);
  ink.drawImage(photo, 0, 0, photo.width * scale, photo.height * scale);
}

async function send(blob) {
  picture = blob;
  if (busy) return; // one at a time: this one follows
  busy = true;
  const answer = await request("/predict", blob);
  busy = false;
  if (blob !== picture) return picture && send(picture); // null: it was cleared
  failed = !answer;
  show(sentence(answer?.detail), answer?.probabilities, answer?.pixels);
  $("labels").disabled ||= timer;
}

async function correct(label) {
  const corrected = picture, reply = await request(`/corrections/${label}`, picture);
  if (picture === corrected) $("kept").textContent = sentence(reply?.detail);
}

async function request(path, body) {
  const patience = 10_000 + (body?.size ?? 0) / 100; // ms: a photo may come over a slow line
  const options = { method: body ? "POST" : "GET", body, signal: AbortSignal.timeout(patience) };
  const reply = await fetch(path, options).catch(() => null);
  $("gone").textContent = reply ? "" : "The server does not answer.";
  return reply?.json().catch(() => ({ detail: "the server failed" }));
}

function show(words, probabilities = [], pixels = []) {
  const best = probabilities.indexOf(Math.max(...probabilities)); // -1 where there are none
  const parts = probabilities.map(percent);
  $("digit").textContent = parts[best] && best;
  $("words").textContent = parts[best] ? `Read as ${best} (${parts[best]}).` : words;
  bars.forEach((bar, digit) => {
    bar.innerHTML = `${digit} <progress value="${probabilities[digit] ?? 0}" aria-hidden="true">
      </progress> <span>${parts[digit] ?? ""}</span>`;
    bar.className = digit === best ? "best" : "";
  });
  $("labels").disabled = best < 0;
  $("kept").textContent = "";
  const image = new ImageData(28, 28);
  pixels.forEach((grey, index) => image.data.set([grey, grey, grey, 255], 4 * index));
  $("seen").getContext("2d").putImageData(image, 0, 0);
}

async function look() {
  const net = await request("/version");
  if (!net?.sha256 || busy) return;
  const name = `${net.version} · ${(net.commit || net.sha256).slice(0, 8)}`;
  if (picture && (failed || name !== $("version").textContent)) send(picture);
  $("version").textContent = name;
  $("version").title = `${net.version}\ncommit: ${net.commit || "none"}\nsha256: ${net.sha256}`;
  $("problem").textContent = sentence(net.problem);
}

paper.onpointerdown = (event) => {
  // Not a second finger, nor a palm beside the pen; but the pen beside a palm.
  if (event.button || (pointer !== null && event.pointerType !== "pen")) return;
  pointer = event.pointerId;
  paper.setPointerCapture(pointer);
  move(place(event));
  draw(at);
};
paper.onpointermove = (event) => event.pointerId === pointer && draw(place(event));
paper.onlostpointercapture = (event) => {
  if (event.pointerId !== pointer) return;
  pointer = null;
  sendDrawing();
};
paper.onkeydown = (event) => {
  const [x, y] = KEYS[event.key] ?? [0, 0], space = event.key === " ";
  if (!(x || y || space) || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault(); // no scrolling
  if (space && !event.repeat) $("pen").classList.toggle("down");
  const to = [at[0] + STEP * x, at[1] + STEP * y];
  $("pen").className ? draw(to) : move(to);
};
addEventListener("keydown", (event) => event.key === "Escape" && clear());
ondragover = ondragstart = (event) => event.preventDefault(); // what is selected stays there
ondrop = (event) => (event.preventDefault(), take(event.dataTransfer.files[0]));
addEventListener("paste", (event) => take(event.clipboardData.files[0]));
$("clear").onclick = clear;
$("file").onchange = (event) => take(event.target.files[0]);
$("file").onclick = (event) => (event.target.value = ""); // the same file may be chosen again
$("labels").innerHTML += bars.map((_, n) => `<button value="${n}">${n}</button>`).join("");
$("labels").onclick = ({ target }) => target.value && correct(target.value);
clear();
look();
setInterval(look, 5000);
