// Draws the charts in the reader's colour scheme when they come near, and moves the playheads.
const specs = JSON.parse(document.getElementById("specs").textContent);
const themes = JSON.parse(document.getElementById("themes").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");
const still = matchMedia("(prefers-reduced-motion: reduce)");
const drawn = new Map();

function recoloured(spec) {
  if (!dark.matches) return structuredClone(spec);
  const text = JSON.stringify(spec);
  return JSON.parse(text.replace(/#[0-9a-f]{6}/g, (colour) => themes.swap[colour] ?? colour));
}

async function draw(place) {
  const key = place.dataset.chart;
  place.dataset.begun = "yes";
  drawn.get(key)?.finalize();
  const options = {
    config: dark.matches ? themes.dark : themes.light,
    renderer: "svg",
    actions: false,
    ast: false,
    tooltip: { theme: dark.matches ? "dark" : "light" },
  };
  drawn.set(key, await window.vegaEmbed(place, recoloured(specs[key]), options));
  place.dataset.drawn = "yes";
}

const places = [...document.querySelectorAll("[data-chart]")];
const watcher = new IntersectionObserver(
  (entries) => {
    for (const entry of entries.filter((e) => e.isIntersecting)) {
      watcher.unobserve(entry.target);
      if (!entry.target.dataset.begun) draw(entry.target);
    }
  },
  { rootMargin: "1200px" },
);
places.forEach((place) => watcher.observe(place));

// The rest follows one by one while the page is at rest, so that a search, a print or a screenshot finds all.
function drawNext() {
  const next = places.find((place) => !place.dataset.begun);
  if (next) draw(next).finally(() => setTimeout(drawNext, 30));
}
addEventListener("load", () => setTimeout(drawNext, 400));
dark.addEventListener("change", () => places.filter((p) => p.dataset.begun).forEach(draw));
addEventListener("beforeprint", () => places.filter((p) => !p.dataset.begun).forEach(draw));

function followed(audio) {
  const picture = audio.parentElement.querySelector(".picture");
  const head = picture.querySelector(".playhead");
  const duration = Number(picture.dataset.duration);
  const place = () => {
    head.style.insetInlineStart = `${Math.min(100, (100 * audio.currentTime) / duration)}%`;
    head.hidden = audio.currentTime === 0;
  };
  const step = () => {
    place();
    if (!audio.paused && !still.matches) requestAnimationFrame(step);
  };
  audio.addEventListener("timeupdate", place);
  audio.addEventListener("play", () => {
    for (const other of document.querySelectorAll("audio")) if (other !== audio) other.pause();
    step();
  });
  picture.addEventListener("click", (event) => {
    const box = picture.getBoundingClientRect();
    const start = () => (audio.currentTime = (duration * (event.clientX - box.left)) / box.width);
    if (audio.readyState > 0) start();
    else audio.addEventListener("loadedmetadata", start, { once: true });
    audio.play();
  });
}
document.querySelectorAll("figure.clip audio").forEach(followed);

// A packed table is saved as CSV where the browser can unpack it.
for (const link of document.querySelectorAll('a.csv[download$=".gz"]')) {
  link.addEventListener("click", async (event) => {
    if (!window.DecompressionStream) return;
    event.preventDefault();
    const packed = Uint8Array.from(atob(link.getAttribute("href").split(",")[1]), (sign) => sign.charCodeAt(0));
    const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const saved = document.createElement("a");
    saved.href = URL.createObjectURL(await new Response(unpacked).blob());
    saved.download = link.download.replace(/\.gz$/, "");
    saved.click();
  });
}
