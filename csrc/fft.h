// Power spectrum of real frames: the butterflies of one FFT in registers, each a function of its index.
//
// A real frame x of N samples is packed as z[n] = x[2n] + i x[2n + 1], transformed as M = N / 2 complex points, and split.
// The transform is the decimation-in-frequency radix-4 one, in place (Cooley and Tukey 1965; Sorensen, Heideman and Burrus
// 1986): a pass over m points leaves four independent transforms of m / 4, so recursion keeps them in a CPU's nearest cache,
// two passes make one of radix 16 in the registers of a GPU's thread, and the permuted order that they leave bins in costs
// nothing because the split reads any two bins anyway.
//
// Included once per instruction set; see lanes.h.

struct Complex {
    Lane re, im;
};

DUOTOK_PHASE Complex add(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
DUOTOK_PHASE Complex subtract(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
DUOTOK_PHASE Complex times(Complex a, const Pair &w) {
    return {a.re * w.of[0] - a.im * w.of[1], a.re * w.of[1] + a.im * w.of[0]};
}

// The discrete Fourier transform of two points, in place.
DUOTOK_PHASE void transform2(Complex x[2]) {
    const Complex sum = add(x[0], x[1]);
    x[1] = subtract(x[0], x[1]);
    x[0] = sum;
}

// The discrete Fourier transform of four points, in place.
DUOTOK_PHASE void transform4(Complex x[4]) {
    const Complex even = add(x[0], x[2]), even_difference = subtract(x[0], x[2]);
    const Complex odd = add(x[1], x[3]), odd_difference = subtract(x[1], x[3]);
    x[0] = add(even, odd);
    x[1] = {even_difference.re + odd_difference.im, even_difference.im - odd_difference.re};
    x[2] = subtract(even, odd);
    x[3] = {even_difference.re - odd_difference.im, even_difference.im + odd_difference.re};
}

// Butterfly j of a pass over `size` points: x[q] is point j + q * size / 4.
DUOTOK_PHASE void butterfly4(Complex x[4], int size, int j, const Pair *twiddles) {
    transform4(x);
    for (int q = 1; q < 4; ++q) x[q] = times(x[q], twiddles[(q - 1) * (size / 4) + j]);
}

// The twiddles of the pass after the one over `size` points.
DUOTOK_PHASE const Pair *next_twiddles(const Pair *twiddles, int size) { return twiddles + 3 * (size / 4); }

// Samples 2n and 2n + 1 of a frame, times the window there.
DUOTOK_PHASE Complex windowed(Complex x, const Pair &window) { return {x.re * window.of[0], x.im * window.of[1]}; }

// |X[k]|^2 and |X[M - k]|^2 from a = Z[k] and b = Z[M - k], k = 1 .. M / 2 - 1, of frames whose window was halved:
// X[k] = E + w^k O and X[M - k] = conj(E - w^k O) with E = a + conj(b), O = -i (a - conj(b)) and w^k = split[k].
DUOTOK_PHASE void split_pair(Complex a, Complex b, const FftTables &fft, int k, Lane *at_k, Lane *at_mirror) {
    const Complex even = {a.re + b.re, a.im - b.im};
    const Complex odd = times({a.im + b.im, b.re - a.re}, fft.split[k]);
    const Complex low = add(even, odd), high = subtract(even, odd);
    *at_k = low.re * low.re + low.im * low.im;
    *at_mirror = high.re * high.re + high.im * high.im;
}

// |X[0]|^2, |X[M / 2]|^2 and |X[M]|^2 from Z[0] and Z[M / 2], the two bins that pair with themselves.
DUOTOK_PHASE void split_ends(Complex first, Complex middle, Lane *at_0, Lane *at_middle, Lane *at_end) {
    const Lane low = first.re + first.im, high = first.re - first.im;
    *at_0 = 4.0f * low * low;
    *at_middle = 4.0f * (middle.re * middle.re + middle.im * middle.im);
    *at_end = 4.0f * high * high;
}
