// SPDX-License-Identifier: Apache-2.0
// Shows the pictures that the server sends over a WebSocket: a JSON text, then its JPEG.
'use strict';

const WINDOW_S = 20; // of the timelines
const GONE_AFTER_S = 1.5; // without a face, until its card goes
const MOST_TIMELINES = 4; // more only while so many faces are in sight
const GAP_S = 0.5; // without a record, that breaks a line
const CARD_PERIOD_MS = 80; // between two changes of the numbers, so that they can be read
const SPOKEN_PERIOD_MS = 3000; // between two announcements to a screen reader
const FIRST_RETRY_MS = 500;
const LONGEST_RETRY_MS = 5000;
const COLOURS = 8; // of classes, in view.css
const STATES = {
  CONFIDENT: { badge: 'CONFIDENT', perhaps: '', height: 11, dash: [] },
  UNCERTAIN: { badge: 'UNCERTAIN: do not act', perhaps: 'perhaps', height: 6, dash: [9, 6] },
  WARMING_UP: { badge: 'WARMING UP: wait', perhaps: 'perhaps', height: 3, dash: [2, 5] },
  UNKNOWN: { badge: 'UNKNOWN: do not act', perhaps: '', height: 1, dash: [2, 5] },
};

const byId = (id) => document.getElementById(id);
const stateOf = (face) => (face.record ? face.record.state : 'UNKNOWN');
const seconds = (picture) => picture.stamp_ns * 1e-9;
const styleOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const classColour = (index) => styleOf(`--class-${index % COLOURS}`);
const setText = (element, text) => {
  if (element.textContent !== text) element.textContent = text;
};

// Make the pixels of a canvas those of the screen; return its context, scaled to CSS pixels.
function contextOf(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = Math.max(1, Math.round(canvas.clientWidth * ratio));
  const height = Math.max(1, Math.round(canvas.clientHeight * ratio));
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  const context = canvas.getContext('2d');
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
  return context;
}

// The image with boxes, landmarks and labels.
class PictureView {
  constructor() {
    this.canvas = byId('picture');
    this.frame = byId('frame');
    this.switches = ['video', 'landmarks', 'boxes'].map((name) => byId(`show-${name}`));
    this.bitmap = null;
    this.picture = null;
    for (const box of this.switches) box.addEventListener('change', () => this.draw());
  }

  show(picture, bitmap) {
    if (this.bitmap) this.bitmap.close();
    this.bitmap = bitmap;
    this.picture = picture;
    this.frame.style.aspectRatio = `${picture.size[0]} / ${picture.size[1]}`;
    const count = picture.faces.length;
    this.canvas.setAttribute('aria-label', count === 1 ? 'A picture with one face' : `A picture with ${count} faces`);
  }

  draw() {
    if (!this.bitmap) return;
    const context = contextOf(this.canvas);
    const [video, landmarks, boxes] = this.switches.map((box) => box.checked);
    const [width, height] = this.picture.size;
    const scale = Math.min(this.canvas.clientWidth / width, this.canvas.clientHeight / height);
    context.translate((this.canvas.clientWidth - width * scale) / 2, (this.canvas.clientHeight - height * scale) / 2);
    if (video) context.drawImage(this.bitmap, 0, 0, width * scale, height * scale);
    for (const face of this.picture.faces) {
      if (landmarks) this.drawLandmarks(context, face, scale);
      if (boxes) this.drawBox(context, face, scale);
    }
  }

  drawLandmarks(context, face, scale) {
    const [, , side] = face.roi;
    const radius = Math.min(3, Math.max(1.2, (side * scale) / 110));
    context.beginPath();
    for (const [x, y] of face.landmarks) {
      // A landmark counts from the centre of the first pixel, the canvas from its corner.
      const left = (x + 0.5) * scale;
      const top = (y + 0.5) * scale;
      context.moveTo(left + radius, top);
      context.arc(left, top, radius, 0, 2 * Math.PI);
    }
    context.fillStyle = '#ffffff';
    context.strokeStyle = 'rgb(0 0 0 / 55%)';
    context.lineWidth = 1.5;
    context.stroke();
    context.fill();
  }

  drawBox(context, face, scale) {
    const state = stateOf(face);
    const colour = styleOf(`--state-${state}`);
    const [x, y, width, height] = face.roi.map((value) => value * scale);
    context.lineWidth = 2.5;
    context.strokeStyle = colour;
    context.setLineDash(STATES[state].dash);
    context.strokeRect(x, y, width, height);
    context.setLineDash([]);
    const { record } = face;
    const doubt = STATES[state].perhaps ? '?' : '';
    const text = record ? `${record.expression}${doubt} ${record.confidence.toFixed(2)}` : face.face_id;
    context.font = '600 14px system-ui, sans-serif';
    const labelWidth = context.measureText(text).width + 12;
    const left = Math.max(0, Math.min(x - 1, this.picture.size[0] * scale - labelWidth));
    const top = Math.max(0, y - 23);
    context.fillStyle = colour;
    context.fillRect(left, top, labelWidth, 22);
    context.fillStyle = styleOf('--on-state');
    context.textBaseline = 'middle';
    context.fillText(text, left + 6, top + 11.5);
  }
}

// One face's answer in words, bars and numbers.
class Card {
  constructor(faceId) {
    this.element = byId('card').content.firstElementChild.cloneNode(true);
    this.element.dataset.face = faceId;
    this.element.setAttribute('aria-label', `Face ${faceId}`);
    this.part('face-id').textContent = faceId;
    this.labels = [];
    this.rows = [];
    this.seen = 0;
  }

  part(name) {
    return this.element.querySelector(`.${name}`);
  }

  show(face, time) {
    const state = stateOf(face);
    this.seen = time;
    this.element.classList.remove('gone');
    this.element.dataset.state = state;
    setText(this.part('badge-text'), STATES[state].badge);
    setText(this.part('perhaps'), STATES[state].perhaps);
    const { record } = face;
    setText(this.part('expression'), record ? record.expression : 'cannot be read');
    setText(this.part('confidence'), record ? record.confidence.toFixed(2) : '');
    this.part('uncertainty').hidden = !record;
    if (!record) return;
    if (record.labels.join() !== this.labels.join()) this.makeRows(record.labels);
    this.rows.forEach((row, index) => this.showClass(row, record, index));
    const most = Math.log(record.labels.length);
    setText(this.part('predictive'), `${record.predictive_entropy.toFixed(2)} of at most ${most.toFixed(2)} nats`);
    setText(this.part('expected-value'), record.expected_entropy.toFixed(2));
    setText(this.part('mutual-value'), record.mutual_information.toFixed(3));
    const split = this.part('split');
    split.style.setProperty('--expected-part', record.expected_entropy / most);
    split.style.setProperty('--mutual-part', record.mutual_information / most);
    split.setAttribute(
      'aria-label',
      `predictive entropy ${record.predictive_entropy.toFixed(2)}: expected entropy ${record.expected_entropy.toFixed(2)} ` +
        `and mutual information ${record.mutual_information.toFixed(3)} nats`,
    );
    setText(
      this.part('evidence'),
      `${record.mc_samples} samples over ${record.window_s.toFixed(1)} s of evidence`,
    );
  }

  // What was last known of a face is no answer any more.
  lose(why) {
    this.element.classList.add('gone');
    this.element.dataset.state = 'UNKNOWN';
    setText(this.part('badge-text'), why);
    setText(this.part('perhaps'), 'last seen:');
  }

  makeRows(labels) {
    this.labels = labels;
    this.rows = labels.map((label, index) => {
      const row = byId('class-row').content.firstElementChild.cloneNode(true);
      row.style.setProperty('--colour', `var(--class-${index % COLOURS})`);
      row.setAttribute('aria-label', label);
      row.querySelector('.name').textContent = label;
      return row;
    });
    this.part('classes').replaceChildren(...this.rows);
  }

  showClass(row, record, index) {
    const mean = record.probabilities[index];
    const deviation = record.standard_deviations[index];
    row.classList.toggle('best', record.labels[index] === record.expression);
    row.style.setProperty('--mean', mean.toFixed(4));
    row.style.setProperty('--low', Math.max(0, mean - deviation).toFixed(4));
    row.style.setProperty('--high', Math.min(1, mean + deviation).toFixed(4));
    row.setAttribute('aria-valuenow', mean.toFixed(2));
    row.setAttribute('aria-valuetext', `${mean.toFixed(2)}, standard deviation ${deviation.toFixed(2)}`);
    setText(row.querySelector('.value'), `${mean.toFixed(2)} ± ${deviation.toFixed(2)}`);
  }
}

// One face's probabilities and states over the last seconds.
class Timeline {
  constructor(faceId) {
    this.element = document.createElement('div');
    this.element.className = 'timeline';
    this.title = document.createElement('h3');
    this.title.textContent = `face ${faceId}`;
    this.canvas = document.createElement('canvas');
    this.canvas.setAttribute('role', 'img');
    this.canvas.setAttribute('aria-label', `Probabilities and states of face ${faceId} over the last ${WINDOW_S} seconds`);
    this.element.append(this.title, this.canvas);
    this.records = [];
  }

  add(record) {
    this.records.push({
      time: record.stamp_ns * 1e-9,
      labels: record.labels,
      means: record.probabilities,
      deviations: record.standard_deviations,
      state: record.state,
    });
  }

  forget(time) {
    const first = this.records.findIndex((record) => record.time >= time - WINDOW_S - 1);
    this.records.splice(0, first < 0 ? this.records.length : first);
  }

  draw(now) {
    const context = contextOf(this.canvas);
    const width = this.canvas.clientWidth;
    const height = this.canvas.clientHeight;
    const left = 30;
    const right = width - 84; // beside it stand the names of the lines
    const top = 8;
    const bottom = height - 36;
    const stripTop = bottom + 6;
    const across = (time) => right - ((now - time) / WINDOW_S) * (right - left);
    const up = (probability) => bottom - probability * (bottom - top);
    this.drawGrid(context, { left, right, up, stripTop });
    context.save();
    context.beginPath();
    context.rect(left, 0, right - left, height);
    context.clip();
    const last = this.records[this.records.length - 1];
    this.element.classList.toggle('gone', now - last.time > GAP_S);
    last.labels.forEach((label, index) => this.drawClass(context, index, across, up));
    this.drawStates(context, across, stripTop);
    context.restore();
    if (now - last.time < GAP_S) this.drawNames(context, last, right, up);
  }

  drawGrid(context, { left, right, up, stripTop }) {
    context.font = '11px system-ui, sans-serif';
    context.fillStyle = styleOf('--quiet');
    context.strokeStyle = styleOf('--line');
    context.lineWidth = 1;
    context.textBaseline = 'middle';
    context.textAlign = 'right';
    for (const probability of [0, 0.5, 1]) {
      const y = Math.round(up(probability)) + 0.5;
      context.beginPath();
      context.moveTo(left, y);
      context.lineTo(right, y);
      context.stroke();
      context.fillText(probability === 0.5 ? '0.5' : String(probability), left - 6, y);
    }
    context.textBaseline = 'top';
    context.textAlign = 'center';
    for (let back = 0; back <= WINDOW_S; back += 5) {
      const x = right - (back / WINDOW_S) * (right - left);
      context.fillText(back ? `-${back} s` : 'now', Math.max(x, left + 8), stripTop + 15);
    }
    context.textBaseline = 'middle';
    context.textAlign = 'left';
    context.fillText('state', right + 6, stripTop + 5);
  }

  // The runs of records without a gap.
  runs() {
    const runs = [];
    this.records.forEach((record, index) => {
      const former = this.records[index - 1];
      if (!former || record.time - former.time > GAP_S || record.labels.length !== former.labels.length) runs.push([]);
      runs[runs.length - 1].push(record);
    });
    return runs;
  }

  drawClass(context, index, across, up) {
    const colour = classColour(index);
    for (const run of this.runs()) {
      if (index >= run[0].means.length) continue;
      context.fillStyle = colour;
      context.globalAlpha = 0.2;
      context.beginPath();
      for (const { time, means, deviations } of run) context.lineTo(across(time), up(Math.min(1, means[index] + deviations[index])));
      for (const { time, means, deviations } of [...run].reverse()) context.lineTo(across(time), up(Math.max(0, means[index] - deviations[index])));
      context.fill();
      context.globalAlpha = 1;
      context.strokeStyle = colour;
      context.lineWidth = 2;
      context.lineJoin = 'round';
      context.beginPath();
      for (const { time, means } of run) context.lineTo(across(time), up(means[index]));
      context.stroke();
    }
  }

  // A strip in the colours of the states; its height tells them too.
  drawStates(context, across, top) {
    const draw = (first, end) => {
      const { height } = STATES[first.state];
      const x = across(first.time);
      context.fillStyle = styleOf(`--state-${first.state}`);
      context.fillRect(x, top + 11 - height, Math.max(1, across(end.time) - x), height);
    };
    for (const run of this.runs()) {
      let first = run[0];
      for (const record of run) {
        if (record.state === first.state) continue;
        draw(first, record);
        first = record;
      }
      draw(first, run[run.length - 1]);
    }
  }

  // The names of the highest lines, at their right end, moved apart.
  drawNames(context, last, right, up) {
    context.font = '600 12px system-ui, sans-serif';
    context.textAlign = 'left';
    context.textBaseline = 'middle';
    const named = last.means
      .map((mean, index) => ({ mean, index }))
      .filter(({ mean }) => mean > 0.1)
      .sort((one, other) => other.mean - one.mean);
    let lowest = -Infinity;
    for (const { mean, index } of named) {
      const y = Math.max(up(mean), lowest + 13);
      lowest = y;
      context.fillStyle = classColour(index);
      context.fillText(last.labels[index], right + 6, y);
    }
  }
}

// Everything on the page.
class View {
  constructor() {
    this.session = null;
    this.pictureView = new PictureView();
    this.cards = new Map();
    this.timelines = new Map();
    this.picture = null;
    this.isDirty = false;
    this.cardsShown = 0;
    this.spoken = 0;
    this.spokenText = '';
    const redraw = () => this.draw();
    window.addEventListener('resize', redraw);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', redraw);
  }

  greet(greeting) {
    if (greeting.session !== this.session) this.clear();
    this.session = greeting.session;
    setText(byId('source'), `· ${greeting.source}`);
    document.title = `${greeting.source} · fer_view`;
    for (const [state, colour] of Object.entries(greeting.state_colours)) {
      document.documentElement.style.setProperty(`--state-${state}`, colour);
    }
    this.setConnection('live', 'connected');
    this.notice('Waiting for the first picture', '', true);
  }

  clear() {
    for (const shown of [this.cards, this.timelines]) {
      for (const { element } of shown.values()) element.remove();
      shown.clear();
    }
  }

  setConnection(kind, text) {
    byId('connection').dataset.kind = kind;
    setText(byId('connection'), text);
    byId('frame').classList.toggle('stale', kind === 'lost');
  }

  notice(title, text, isLarge) {
    byId('notice').hidden = !title;
    byId('notice').classList.toggle('large', isLarge);
    setText(byId('notice-title'), title);
    setText(byId('notice-text'), text);
  }

  end(error) {
    this.withdraw('over');
    if (error) {
      this.setConnection('lost', 'stopped');
      this.notice('The source has stopped', error, false);
    } else {
      this.setConnection('over', 'over');
      this.notice('This is the end', 'Start fer_view with --loop to see it again and again.', false);
    }
  }

  // No answer is shown as if it were of now.
  withdraw(why) {
    this.isDirty = false;
    clearTimeout(this.later);
    if (this.picture) {
      this.draw();
      this.showCards();
    }
    for (const card of this.cards.values()) card.lose(why);
  }

  lose() {
    this.withdraw('no connection');
    this.setConnection('lost', 'no connection');
    this.notice('No connection to fer_view', 'Has it ended? This page connects again by itself.', false);
  }

  show(picture, bitmap) {
    if (this.picture && picture.stamp_ns < this.picture.stamp_ns) this.clear();
    this.picture = picture;
    this.pictureView.show(picture, bitmap);
    for (const face of picture.faces) {
      if (!face.record || !face.updated) continue;
      if (!this.timelines.has(face.face_id)) this.add(this.timelines, face.face_id, new Timeline(face.face_id), 'timelines');
      this.timelines.get(face.face_id).add(face.record);
    }
    this.forget(seconds(picture));
    if (!this.isDirty) {
      this.isDirty = true;
      requestAnimationFrame(() => this.refresh());
    }
  }

  add(shown, faceId, item, container) {
    shown.set(faceId, item);
    byId(container).append(item.element);
  }

  refresh() {
    if (!this.isDirty) return;
    this.isDirty = false;
    this.draw();
    const isNew = this.picture.faces.some((face) => !this.cards.has(face.face_id));
    clearTimeout(this.later);
    const waitMs = this.cardsShown + CARD_PERIOD_MS - performance.now();
    if (waitMs > 0 && !isNew) this.later = setTimeout(() => this.showCards(), waitMs); // the last picture counts too
    else this.showCards();
  }

  draw() {
    if (!this.picture) return;
    this.pictureView.draw();
    const now = seconds(this.picture);
    for (const timeline of this.timelines.values()) timeline.draw(now);
  }

  // Also while the page is hidden and nothing is drawn: it must not grow.
  forget(now) {
    for (const [faceId, timeline] of this.timelines) {
      timeline.forget(now);
      if (!timeline.records.length) this.remove(this.timelines, faceId);
    }
    const last = (faceId) => this.timelines.get(faceId).records.at(-1).time;
    const oldestFirst = [...this.timelines.keys()].sort((one, other) => last(one) - last(other));
    const most = Math.max(MOST_TIMELINES, this.picture.faces.length);
    oldestFirst.slice(0, -most).forEach((faceId) => this.remove(this.timelines, faceId));
  }

  remove(shown, faceId) {
    shown.get(faceId).element.remove();
    shown.delete(faceId);
  }

  showCards() {
    const { faces } = this.picture;
    const now = seconds(this.picture);
    this.cardsShown = performance.now();
    for (const face of faces) {
      if (!this.cards.has(face.face_id)) this.add(this.cards, face.face_id, new Card(face.face_id), 'cards');
      this.cards.get(face.face_id).show(face, now);
    }
    for (const [faceId, card] of this.cards) {
      if (card.seen < now) card.lose('out of sight');
      if (now - card.seen > GONE_AFTER_S) this.remove(this.cards, faceId);
    }
    byId('no-face').hidden = this.cards.size > 0;
    setText(byId('no-face'), 'No face in sight. A face must be near frontal at first, and about 80 pixels wide.');
    byId('no-past').hidden = this.timelines.size > 0;
    this.showLegend();
    this.showStatistics();
    this.speak();
    this.notice(faces.length ? '' : 'No face in sight', '', false);
  }

  showLegend() {
    const record = this.picture.faces.map((face) => face.record).find(Boolean);
    if (!record || byId('legend').dataset.labels === record.labels.join()) return;
    byId('legend').dataset.labels = record.labels.join();
    byId('legend').replaceChildren(
      ...record.labels.map((label, index) => {
        const item = document.createElement('li');
        const swatch = document.createElement('span');
        swatch.className = 'swatch';
        swatch.style.setProperty('--colour', `var(--class-${index % COLOURS})`);
        item.append(swatch, label);
        return item;
      }),
    );
  }

  showStatistics() {
    const { picture } = this;
    setText(byId('stat-faces'), String(picture.faces.length));
    setText(byId('stat-rate'), picture.frame_rate.toFixed(1));
    setText(byId('stat-processing'), `${picture.processing_ms.toFixed(1)} ms`);
    setText(byId('stat-age'), `${picture.age_ms.toFixed(1)} ms`);
    setText(byId('stat-dropped'), `${picture.dropped}${picture.skipped ? ` + ${picture.skipped} damaged` : ''}`);
  }

  // Tell a screen reader what changed, but not at the rate of the camera.
  speak() {
    if (performance.now() - this.spoken < SPOKEN_PERIOD_MS) return;
    const text = this.picture.faces
      .map((face) => {
        const state = STATES[stateOf(face)];
        return `Face ${face.face_id}: ${state.perhaps} ${face.record ? face.record.expression : ''}, ${state.badge}.`;
      })
      .join(' ') || 'No face.';
    if (text === this.spokenText) return;
    this.spoken = performance.now();
    this.spokenText = text;
    setText(byId('spoken'), text);
  }
}

// The connection, which is made again whenever it is lost.
class Connection {
  constructor(view) {
    this.view = view;
    this.retryMs = FIRST_RETRY_MS;
    this.open();
  }

  open() {
    const address = new URL('pictures', location.href);
    address.protocol = location.protocol === 'https:' ? 'wss:' : 'ws:';
    const socket = new WebSocket(address);
    socket.binaryType = 'arraybuffer';
    let picture = null;
    let turn = Promise.resolve(); // what arrives is shown one after the other
    socket.addEventListener('message', ({ data }) => {
      if (typeof data !== 'string') {
        const shown = picture;
        turn = turn.then(() => this.show(socket, shown, data));
        return;
      }
      const content = JSON.parse(data);
      if (content.kind === 'picture') picture = content;
      else if (content.kind === 'greeting') this.greet(content);
      else if (content.kind === 'end') turn = turn.then(() => this.view.end(content.error));
    });
    socket.addEventListener('close', () => {
      turn.then(() => this.view.lose());
      setTimeout(() => this.open(), this.retryMs);
      this.retryMs = Math.min(LONGEST_RETRY_MS, this.retryMs * 1.5);
    });
  }

  greet(greeting) {
    this.retryMs = FIRST_RETRY_MS;
    this.view.greet(greeting);
  }

  async show(socket, picture, jpeg) {
    try {
      const bitmap = await createImageBitmap(new Blob([jpeg], { type: 'image/jpeg' }));
      this.view.show(picture, bitmap);
    } catch {
      // A picture that the browser cannot decode is left out.
    } finally {
      if (socket.readyState === WebSocket.OPEN) socket.send(String(picture.number)); // the next, please
    }
  }
}

new Connection(new View());
