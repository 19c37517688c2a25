// The script of the page: asks for changes, arrow keys, image size, reading of charts. It sends nothing anywhere else.
"use strict";

const EVERY_MS = 2000;
let tag = null;
let updates = 0;

function zoom(change) {
  let level = 8;
  try { level = Number(localStorage.getItem("irg-rl zoom")) || 8; } catch { /* storage is switched off */ }
  if (change) level = Math.min(24, Math.max(2, level + 2 * change));
  try { localStorage.setItem("irg-rl zoom", String(level)); } catch { /* storage is switched off */ }
  document.documentElement.style.setProperty("--zoom", level);
  for (const image of document.querySelectorAll(".zoom img.pixels")) {
    image.style.width = `${Number(image.getAttribute("width")) * level + 8}px`; // 8: the frame; whole factors stay crisp
  }
}

// A page that has changed replaces what is shown. What the reader has opened, typed or scrolled stays.
async function ask() {
  if (document.hidden) return;
  const live = document.querySelector(".live");
  let answer;
  try {
    answer = await fetch(location.href, tag ? { headers: { "If-None-Match": tag }, cache: "no-store" } : { cache: "no-store" });
  } catch {
    live.textContent = "irg-rl view has ended";
    live.classList.add("lost");
    return;
  }
  live.textContent = "live";
  live.classList.remove("lost");
  if (answer.status === 304 || !answer.ok) return;
  const text = await answer.text();
  const first = tag === null;
  tag = answer.headers.get("ETag");
  const busy = document.querySelector(".shade") || !getSelection().isCollapsed || editing();
  if (busy) { tag = null; return; }
  const fresh = new DOMParser().parseFromString(text, "text/html").querySelector("main");
  const old = document.querySelector("main");
  if (first && fresh.innerHTML === serverHtml) return;
  serverHtml = fresh.innerHTML;
  for (const details of old.querySelectorAll("details[open]")) {
    const same = details.id && fresh.querySelector(`#${CSS.escape(details.id)}`);
    if (same) same.open = true;
  }
  const scrolled = [...old.querySelectorAll(".trajectory")].map((one) => one.scrollLeft);
  old.replaceWith(fresh);
  [...fresh.querySelectorAll(".trajectory")].forEach((one, place) => { one.scrollLeft = scrolled[place] || 0; });
  updates += 1;
  document.documentElement.dataset.updates = updates;
  prepare();
}

function editing() {
  const active = document.activeElement;
  if (active && active.matches("input[type=search], select")) return true;
  return [...document.querySelectorAll("main input[type=checkbox]")].some((box) => box.checked !== box.defaultChecked);
}

function prepare() {
  zoom(0);
  for (const form of document.querySelectorAll("form[data-submit]")) {
    form.addEventListener("change", () => form.requestSubmit());
  }
  for (const chart of document.querySelectorAll(".chart")) prepareChart(chart);
}

function prepareChart(chart) {
  const picture = chart.querySelector("svg");
  const lines = JSON.parse(chart.dataset.lines);
  if (!picture || !lines.length) return;
  const cross = picture.querySelector(".cross");
  const leave = () => { chart.classList.remove("pointed"); chart.querySelector(".reading")?.remove(); };
  picture.addEventListener("pointerleave", leave);
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const x = ((event.clientX - box.left) * picture.viewBox.baseVal.width) / box.width;
    const nearest = lines.map((line) => [line.label, line.points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a))]);
    const [, closest] = nearest.reduce((a, b) => (Math.abs(b[1][0] - x) < Math.abs(a[1][0] - x) ? b : a));
    cross.setAttribute("x1", closest[0]);
    cross.setAttribute("x2", closest[0]);
    chart.classList.add("pointed");
    let reading = chart.querySelector(".reading");
    if (!reading) { reading = document.createElement("div"); reading.className = "reading"; chart.append(reading); }
    reading.textContent = [`step ${closest[2]}`, ...nearest.map(([label, point]) => `${label}  ${point[3]}`)].join("\n");
    const left = (closest[0] / picture.viewBox.baseVal.width) * box.width;
    if (left < box.width / 2) { reading.style.left = `${left + 12}px`; reading.style.right = "auto"; }
    else { reading.style.right = `${box.width - left + 12}px`; reading.style.left = "auto"; }
  });
}

// An image alone, enlarged by a whole factor if it is small.
function openImage(link) {
  const shade = document.createElement("button");
  shade.className = "shade";
  shade.setAttribute("aria-label", "close the image");
  const image = document.createElement("img");
  image.src = link.href;
  image.onload = () => {
    const factor = Math.min((0.94 * innerWidth) / image.naturalWidth, (0.94 * innerHeight) / image.naturalHeight);
    const whole = factor >= 1 ? Math.floor(factor) : factor;
    image.style.width = `${image.naturalWidth * whole}px`;
    if (whole > 1) image.className = "pixels";
  };
  shade.append(image);
  shade.addEventListener("click", () => shade.remove());
  document.body.append(shade);
  shade.focus();
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a.zoom");
  if (link && !event.ctrlKey && !event.metaKey && event.button === 0) { event.preventDefault(); openImage(link); }
  const button = event.target.closest("[data-zoom]");
  if (button) zoom(Number(button.dataset.zoom));
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input[type=search], select, textarea")) return;
  const shade = document.querySelector(".shade");
  if (shade) { if (event.key === "Escape") shade.remove(); return; }
  const way = { ArrowLeft: "prev", ArrowRight: "next", Escape: "up" }[event.key];
  const link = way && document.querySelector(`a[rel=${way}]`);
  if (link) { event.preventDefault(); link.click(); }
  if (event.key === "+" || event.key === "=") zoom(1);
  if (event.key === "-") zoom(-1);
});

let serverHtml = document.querySelector("main").innerHTML;
prepare();
setInterval(ask, EVERY_MS);
