// Undo and redo: whole states, as many as some memory holds.

const LARGEST = 200 * 1024 * 1024;

export class History {
  constructor(state) {
    this.past = [];
    this.future = [];
    this.now = state;
  }

  commit(state) {
    this.past.push(this.now);
    this.future = [];
    this.now = state;
    let bytes = 0;
    for (let place = this.past.length - 1; place >= 0; place--) {
      bytes += this.past[place].mask.length + this.past[place].strokes.length;
      if (bytes > LARGEST) { this.past.splice(0, place); break; }
    }
  }

  undo() {
    if (!this.past.length) return false;
    this.future.push(this.now);
    this.now = this.past.pop();
    return true;
  }

  redo() {
    if (!this.future.length) return false;
    this.past.push(this.now);
    this.now = this.future.pop();
    return true;
  }
}
