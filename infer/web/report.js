// Values under the pointer: read back from the drawn lines, so that nothing is stored twice.
for (const chart of document.querySelectorAll(".chart")) {
  const svg = chart.querySelector("svg");
  const output = chart.querySelector("output");
  const { right, bottom, top } = chart.dataset;
  const show = (value) => {
    const digits = value !== 0 && Math.abs(value) < 0.01 ? 3 : 4;
    return value >= 1e6 ? (value / 1e6).toFixed(2) + " M" : String(Number(value.toPrecision(digits)));
  };
  const lines = [...svg.querySelectorAll("polyline")].map((line) => ({
    name: line.dataset.name,
    source: line.classList.contains("source"),
    points: [...line.points],
  }));
  const cursor = document.createElementNS("http://www.w3.org/2000/svg", "path");
  cursor.setAttribute("class", "cursor");
  svg.append(cursor);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = (1000 * (event.clientX - box.left)) / box.width;
    const height = (1000 * (event.clientY - box.top)) / box.height;
    const all = lines.map(({ name, source, points }) => {
      const point = points.reduce((a, b) => (Math.abs(b.x - at) < Math.abs(a.x - at) ? b : a));
      const value = show(+top - (point.y / 1000) * (top - bottom));
      // What lies above the drawing is drawn at its edge.
      const above = point.y === 0 && svg.querySelector(".above") ? "at least " : "";
      return { x: point.x, y: point.y, source, words: `${name} ${above}${value}`.trim() };
    });
    // Of many lines, the strong one and the one under the pointer.
    const closest = all.reduce((a, b) => (Math.abs(b.y - height) < Math.abs(a.y - height) ? b : a));
    const near = all.filter((one) => !one.source || one === closest);
    cursor.setAttribute("d", `M${near[0].x} 0V1000`);
    output.textContent = `${show((near[0].x / 1000) * right)}: ` + near.map((one) => one.words).join(", ");
  });
  svg.addEventListener("pointerleave", () => {
    cursor.removeAttribute("d");
    output.textContent = "";
  });
}
