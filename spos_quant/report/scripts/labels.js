// Label placement on the plane ----------------------------------------------------------------------------------
// The ranges of both axes, estimated from the data before the plot is drawn.
function spans(ranges) {
  const span = (values) => [Math.min(...values), Math.max(...values)];
  const heights = points.y.concat(plane.baselines.map((b) => b.y)).filter((y) => y !== null);
  return ranges ?? [span(costs.map(at)), span(heights)];
}

// The side of each baseline where its label overlaps least with labels, marks, the front, budgets and points.
function labelPlaces(ranges) {
  const [[left, right], [low, high]] = spans(ranges), box = byId("plane-plot");
  const wide = box.clientWidth * 0.8, tall = box.clientHeight * 0.72, letter = fontSize() * 0.6;
  const place = (p) => [((at(p.x) - left) / (right - left || 1)) * wide, (1 - (p.y - low) / (high - low || 1)) * tall];
  const dots = points.x.map((x, i) => place({ x, y: points.y[i] })), lines = frontLines(place);
  const marks = [...plane.baselines, ...plane.winners].map(place), taken = [];
  const budgets = plane.budgets.map((b) => place({ x: b.x, y: high })[0]);
  const within = ([x, y], b) => x > b[0] - 5 && x < b[2] + 5 && y > b[1] - 5 && y < b[3] + 5;
  const meet = (a, b) => a[0] < b[2] && a[2] > b[0] && a[1] < b[3] && a[3] > b[1];
  const many = (list, test) => list.filter(test).length;
  return plane.baselines.map((baseline) => {
    const [x, y] = place(baseline), w = baseline.name.length * letter, h = fontSize() + 2;
    const sides = {
      "bottom center": [x - w / 2, y + 6, x + w / 2, y + 6 + h], "top center": [x - w / 2, y - 6 - h, x + w / 2, y - 6],
      "middle right": [x + 8, y - h / 2, x + 8 + w, y + h / 2], "middle left": [x - 8 - w, y - h / 2, x - 8, y + h / 2],
    };
    const overlap = (b) => 40 * many(taken, (other) => meet(other, b)) + 20 * many(marks, (mark) => within(mark, b))
      + 6 * many(lines, (line) => meet(line, b)) + 6 * many(budgets, (line) => line > b[0] && line < b[2])
      + many(dots, (dot) => within(dot, b)) + (b[0] < -10 || b[2] > wide + 10 || b[3] > tall ? 30 : 0);
    const best = Object.keys(sides).reduce((a, b) => (overlap(sides[b]) < overlap(sides[a]) ? b : a));
    taken.push(sides[best]);
    return best;
  });
}

// The staircase of the front as thin boxes.
function frontLines(place) {
  const corners = front.map((i) => place({ x: points.x[i], y: points.y[i] }));
  return corners.slice(1).flatMap(([x, y], i) => {
    const [before, level] = corners[i];
    return [[before, level - 1, x, level + 1], [x - 1, Math.min(y, level), x + 1, Math.max(y, level)]];
  });
}

// The row of each budget's label such that no labels overlap; widths are estimated from the number of letters.
function labelLevels(range) {
  const [low, high] = range ?? spans()[0];
  const width = byId("plane-plot").clientWidth * 0.8, ends = [];
  return plane.budgets.map((b) => {
    const x = ((at(b.x) - low) / (high - low || 1)) * width, half = b.name.length * 3.5 + 5;
    let level = ends.findIndex((end) => end < x - half);
    if (level < 0) level = ends.length;
    ends[level] = x + half;
    return level;
  });
}
