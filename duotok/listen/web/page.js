/* What is seen of the player, and what it is told. */

const root = document.documentElement;
const byId = (id) => document.getElementById(id);
const JUMP_S = 2; // of an arrow key

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const nameOf = ({ name, kind }) => `${name}, ${kind.toLowerCase()}`;
const cards = [];
const outputs = [];

function announce(text) {
  byId("status").textContent = text;
}

function showPlace() {
  const at = player.position();
  const shown = at.toFixed(1);
  root.style.setProperty("--at", at / player.duration);
  byId("seek").value = at;
  byId("seek").setAttribute("aria-valuetext", `${shown} of ${player.duration.toFixed(1)} seconds`);
  byId("time").textContent = `${shown} / ${player.duration.toFixed(1)} s`;
  const frame = Math.min(Math.floor(at * data.frameRate), data.codes[0].length - 1);
  outputs.forEach((output, track) => { output.value = data.codes[track][frame]; });
}

function showState() {
  const verb = player.playing ? "Playing" : "Paused";
  announce(`${verb}: ${nameOf(data.sounds[player.current])}`);
  byId("play").classList.toggle("on", player.playing);
  byId("play").setAttribute("aria-label", player.playing ? "Pause" : "Play");
  byId("loop").setAttribute("aria-pressed", player.loop);
  cards.forEach(({ card, button }, i) => {
    card.classList.toggle("current", i === player.current);
    button.setAttribute("aria-pressed", i === player.current);
  });
  showPlace();
}

function tick() {
  if (!player.playing) return;
  if (!player.loop && player.position() >= player.duration) {
    player.stop();
    player.offset = 0;
    showState();
    return;
  }
  showPlace();
  requestAnimationFrame(tick);
}

function toggle() {
  if (player.playing) {
    player.stop();
  } else {
    player.start();
    requestAnimationFrame(tick);
  }
  showState();
}

function choose(index) {
  player.choose(index);
  showState();
}

function move(seconds) {
  player.move(seconds);
  showPlace();
}

function setLoop() {
  const again = player.playing;
  if (again) player.stop();
  player.loop = !player.loop;
  if (again) player.start();
  showState();
}

const flip = () => choose(player.current ^ 1); // original and decoded of one name stand side by side

function draw() {
  const dark = isDark();
  const colours = scale(dark);
  cards.forEach(({ pictures }) => pictures.forEach(([canvas, values, rows]) => drawPicture(canvas, values, rows, colours)));
  document.querySelectorAll("canvas.codes").forEach((canvas, track) => drawCodes(canvas, data.codes[track], dark));
  byId("theme").textContent = dark ? "Light" : "Dark";
  byId("theme").setAttribute("aria-label", `Switch to ${dark ? "light" : "dark"} colours`);
}

/* The page. */

function makeView(onPlace, ...canvases) {
  const view = make("div", { className: "view" }, ...canvases);
  view.addEventListener("click", (event) => {
    const { left, width } = view.getBoundingClientRect();
    if (byId("play").disabled) return;
    onPlace();
    move(((event.clientX - left) / width) * player.duration);
  });
  return view;
}

function picture(className, label) {
  const canvas = make("canvas", { className });
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  return canvas;
}

function makeCard(sound, index) {
  const label = nameOf(sound);
  const button = make("button", { type: "button", disabled: true }, sound.kind, make("kbd", { textContent: index + 1 }));
  button.setAttribute("aria-label", label);
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", () => choose(index));
  const mel = picture("mel", `Spectrogram of ${label}`);
  const chroma = picture("chroma", `Pitch classes of ${label}`);
  const card = make("div", { className: "sound" }, button, makeView(() => choose(index), mel, chroma));
  cards.push({ card, button, pictures: [[mel, unpack(sound.mel), data.bands], [chroma, unpack(sound.chroma), 12]] });
  return card;
}

function makeSounds() {
  for (let i = 0; i < data.sounds.length; i += 2) {
    const pair = [i, i + 1].map((index) => makeCard(data.sounds[index], index));
    byId("sounds").append(make("div", { className: "track" }, make("h2", { textContent: data.sounds[i].name }), ...pair));
  }
}

function makeCodes() {
  ["Vocals", "Accompaniment"].forEach((name, track) => {
    const output = make("output");
    output.setAttribute("aria-live", "off");
    outputs.push(output);
    const label = `${data.codes[track].length} codes of the ${name.toLowerCase()} over time`;
    const head = make("p", {}, make("span", { textContent: name }), output);
    byId("codes").append(make("div", { className: "stream" }, head, makeView(() => {}, picture("codes", label))));
  });
}

function makeScores() {
  const rows = {
    decoded: "Decoded from codes", autoencoder: "Autoencoder alone", other: "The other track's codes",
    mean_spectrum: "Mean spectrum",
    noise: "White noise",
  };
  const longest = Math.max(...Object.values(data.scores).flat());
  ["Vocals", "Accompaniment"].forEach((name, track) => {
    const body = make("tbody");
    for (const [key, label] of Object.entries(rows)) {
      const value = data.scores[key][track];
      const bar = make("div", { className: "bar" });
      bar.style.width = `${(100 * value) / longest}%`;
      const head = make("th", { scope: "row", textContent: label });
      const row = make("tr", { className: key === "decoded" ? "own" : "" }, head);
      row.append(make("td", {}, bar), make("td", { textContent: value.toFixed(2) }));
      body.append(row);
    }
    byId("scores").append(make("table", {}, make("caption", { textContent: name }), body));
  });
}

const KEYS = {
  ArrowLeft: () => move(player.position() - JUMP_S),
  ArrowRight: () => move(player.position() + JUMP_S),
  Home: () => move(0),
  c: flip,
  l: setLoop,
};

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || byId("play").disabled) return;
  const pressed = event.target.closest("button");
  let act = KEYS[event.key] || KEYS[event.key.toLowerCase()];
  if (event.key >= "1" && event.key <= String(data.sounds.length)) act = () => choose(Number(event.key) - 1);
  // A button has its own use for the space bar, but the chosen sound's has nothing left to do.
  if (event.key === " " && (!pressed || pressed === cards[player.current].button)) act = toggle;
  if (!act || (event.repeat && act === toggle)) return;
  event.preventDefault();
  act();
}

function switchTheme() {
  root.dataset.theme = isDark() ? "light" : "dark";
  draw();
}

async function begin() {
  makeSounds();
  makeCodes();
  makeScores();
  draw();
  byId("theme").hidden = false;
  byId("theme").addEventListener("click", switchTheme);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  try {
    await player.load();
  } catch (error) {
    announce(`This browser cannot read the sounds: ${error.message}`);
    return;
  }
  byId("seek").max = player.duration;
  byId("seek").addEventListener("input", () => move(Number(byId("seek").value)));
  byId("play").addEventListener("click", toggle);
  byId("flip").addEventListener("click", flip);
  byId("loop").addEventListener("click", setLoop);
  document.addEventListener("keydown", onKey);
  document.querySelectorAll("#transport :disabled, .sound button").forEach((control) => { control.disabled = false; });
  cards.forEach(({ button }, i) => { button.dataset.seconds = player.buffers[i].duration; });
  showState();
  announce(`Ready: ${nameOf(data.sounds[player.current])}`);
}

begin();
