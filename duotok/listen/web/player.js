"use strict";

/* Six sounds run in lockstep through one clock; choosing another only turns their volumes, so the place is kept to the sample. */

const data = JSON.parse(document.getElementById("data").textContent);
const FADE_S = 0.008; // of a choice, against clicks

function unpack(text) {
  return Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
}

const player = {
  context: null, buffers: [], nodes: [], current: 0, playing: false, loop: false,
  duration: data.seconds, offset: 0, startedAt: 0,

  async load() {
    const decoder = new OfflineAudioContext(1, 1, data.sampleRate);
    for (const sound of data.sounds) {
      this.buffers.push(await decoder.decodeAudioData(unpack(sound.audio).buffer));
    }
    this.duration = Math.min(data.seconds, ...this.buffers.map((buffer) => buffer.duration));
  },

  position() {
    if (!this.playing) return this.offset;
    const reached = this.offset + Math.max(0, this.context.currentTime - this.startedAt);
    return this.loop ? reached % this.duration : Math.min(reached, this.duration);
  },

  start() {
    if (!this.context) {
      if (navigator.audioSession) navigator.audioSession.type = "playback"; // a phone's mute switch is for rings, not for music
      this.context = new AudioContext();
    }
    this.context.resume();
    this.startedAt = this.context.currentTime + 0.03;
    this.nodes = this.buffers.map((buffer, i) => {
      const source = this.context.createBufferSource();
      const gain = this.context.createGain();
      Object.assign(source, { buffer, loop: this.loop, loopStart: 0, loopEnd: this.duration });
      gain.gain.value = i === this.current ? 1 : 0;
      source.connect(gain).connect(this.context.destination);
      source.start(this.startedAt, this.offset);
      return { source, gain };
    });
    this.playing = true;
  },

  stop() {
    this.offset = this.position();
    this.playing = false;
    for (const { source, gain } of this.nodes) {
      source.stop();
      gain.disconnect();
    }
    this.nodes = [];
  },

  move(seconds) {
    const again = this.playing;
    if (again) this.stop();
    this.offset = Math.max(0, Math.min(seconds, this.duration));
    if (again) this.start();
  },

  choose(index) {
    this.current = index;
    this.nodes.forEach(({ gain }, i) => {
      gain.gain.setTargetAtTime(i === index ? 1 : 0, this.context.currentTime, FADE_S);
    });
  },
};
