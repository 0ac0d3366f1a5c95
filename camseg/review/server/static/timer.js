// Active time: from when a mask was painted first to the decision, without gaps over 30 s and hidden tabs.

export const GAP = 30000;

export class ActiveTimer {
  constructor(now = () => performance.now()) {
    this.now = now;
    this.total = 0;
    this.last = null;
    this.hidden = false;
  }

  start() {
    this.total = 0;
    this.last = this.now();
  }

  // Something was done: the time since the last thing counts, unless the person was away.
  mark() {
    if (this.last === null || this.hidden) return;
    const now = this.now(), gap = now - this.last;
    if (gap <= GAP) this.total += gap;
    this.last = now;
  }

  hide() {
    this.mark();
    this.hidden = true;
  }

  show() {
    this.hidden = false;
    if (this.last !== null) this.last = this.now();
  }

  stop() {
    this.mark();
    this.last = null;
    return this.total / 1000;
  }

  // What was stopped goes on: the decision did not arrive.
  resume() {
    this.last = this.now();
  }
}
