// The pictures of one run: a cell an image, drawn from the sheet of the chosen w.

class Pictures {
  constructor(run) {
    this.run = run;
    this.set = 0;
    this.wanted = null;
    this.sheets = run.sets.map((set) => set.sheets.map(() => null));
    this.cells = document.createElement('div');
    this.cells.className = 'cells';
    this.cells.setAttribute('role', 'img');
  }

  // The sheet of a row, decoded once.
  async sheet(set, row) {
    if (!this.sheets[set][row]) {
      const image = new Image();
      image.src = this.run.sets[set].sheets[row];
      this.sheets[set][row] = image.decode().then(() => image);
    }
    return this.sheets[set][row];
  }

  decodeAll() {
    this.run.sets.forEach(({ sheets }, set) => sheets.forEach((_, row) => this.sheet(set, row)));
  }

  choose(set) {
    this.set = Math.min(set, this.run.sets.length - 1);
    const { classes, count, size } = this.run.sets[this.set];
    this.cells.classList.toggle('small-images', Math.max(...size) <= 32);
    this.cells.replaceChildren(
      ...Array.from({ length: count }, (_, i) => {
        const cell = document.createElement('div');
        const canvas = document.createElement('canvas');
        [canvas.height, canvas.width] = size;
        cell.append(canvas);
        if (classes.length) {
          const name = document.createElement('span');
          name.textContent = name.title = classes[i];
          cell.append(name);
        }
        return cell;
      }),
    );
  }

  filter(name) {
    const { classes } = this.run.sets[this.set];
    [...this.cells.children].forEach((cell, i) => {
      cell.hidden = name !== '' && classes[i] !== name;
    });
  }

  // The pictures of row number `row`; -1 where this run has none of that w.
  async show(row, text) {
    this.wanted = row;
    this.cells.classList.toggle('missing', row < 0);
    const { title, count } = this.run.sets[this.set];
    this.cells.setAttribute(
      'aria-label',
      row < 0 ? `${this.run.name} was not sampled at ${text}` : `${count} samples of ${this.run.name} at ${text}, ${title}`,
    );
    if (row < 0) return;
    const set = this.set;
    const image = await this.sheet(set, row);
    // Meanwhile the slider may have moved on.
    if (this.wanted !== row || this.set !== set) return;
    const [height, width] = this.run.sets[set].size;
    const columns = this.run.columns;
    [...this.cells.children].forEach((cell, i) => {
      const canvas = cell.firstChild;
      const [left, top] = [(i % columns) * width, Math.floor(i / columns) * height];
      canvas.getContext('2d').drawImage(image, left, top, width, height, 0, 0, width, height);
    });
    this.cells.dataset.w = this.run.rows[row].w;
  }
}
