// Power spectrum of real frames: the steps of one FFT, each a function of the index of its butterfly or bin.
//
// A real frame x of N samples is packed as z[n] = x[2n] + i x[2n + 1], transformed as M = N / 2 complex points, and split.
// The transform is the decimation-in-frequency radix-4 one, in place (Cooley and Tukey 1965; Sorensen, Heideman and Burrus
// 1986): a pass over m points leaves four independent transforms of m / 4, so recursion keeps them in the nearest cache,
// and the permuted order that it leaves bins in costs nothing because the split reads any two bins anyway.
//
// Included once per instruction set; see lanes.h. Point n of a frame is the pair data[2n], data[2n + 1].

struct Complex {
    Lane re, im;
};

DUOTOK_PHASE Complex load_point(const Lane *data, int n) { return {data[2 * n], data[2 * n + 1]}; }

DUOTOK_PHASE void store_point(Lane *data, int n, Complex x) {
    data[2 * n] = x.re;
    data[2 * n + 1] = x.im;
}

DUOTOK_PHASE Complex add(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
DUOTOK_PHASE Complex subtract(Complex a, Complex b) { return {a.re - b.re, a.im - b.im}; }
DUOTOK_PHASE Complex times(Complex a, const float *w) { return {a.re * w[0] - a.im * w[1], a.re * w[1] + a.im * w[0]}; }

// The discrete Fourier transform of four points, in place.
DUOTOK_PHASE void transform4(Complex x[4]) {
    const Complex even = add(x[0], x[2]), even_difference = subtract(x[0], x[2]);
    const Complex odd = add(x[1], x[3]), odd_difference = subtract(x[1], x[3]);
    x[0] = add(even, odd);
    x[1] = {even_difference.re + odd_difference.im, even_difference.im - odd_difference.re};
    x[2] = subtract(even, odd);
    x[3] = {even_difference.re - odd_difference.im, even_difference.im + odd_difference.re};
}

// Finish butterfly j of a pass over `size` points: transform, twiddle, store.
DUOTOK_PHASE void finish_radix4(Complex x[4], Lane *data, int size, int j, const float *twiddles) {
    transform4(x);
    store_point(data, j, x[0]);
    for (int q = 1; q < 4; ++q) store_point(data, j + q * (size / 4), times(x[q], twiddles + 6 * j + 2 * (q - 1)));
}

DUOTOK_PHASE void radix4(Lane *data, int size, int j, const float *twiddles) {
    Complex x[4];
    for (int q = 0; q < 4; ++q) x[q] = load_point(data, j + q * (size / 4));
    finish_radix4(x, data, size, j, twiddles);
}

// Four points: the last pass, without twiddles.
DUOTOK_PHASE void last_radix4(Lane *data) {
    Complex x[4];
    for (int q = 0; q < 4; ++q) x[q] = load_point(data, q);
    transform4(x);
    for (int q = 0; q < 4; ++q) store_point(data, q, x[q]);
}

// Two points: the last pass where log2 M is odd.
DUOTOK_PHASE void last_radix2(Lane *data) {
    const Complex a = load_point(data, 0), b = load_point(data, 1);
    store_point(data, 0, add(a, b));
    store_point(data, 1, subtract(a, b));
}

// Butterfly j of the first pass, straight from the frames: samples 2j and 2j + 1 and those a quarter of a frame apart.
DUOTOK_PHASE void finish_first_radix4(Complex x[4], Lane *data, const FftTables &fft, int j, const float *window) {
    for (int q = 0; q < 4; ++q) {
        const float *w = window + 2 * (j + q * (fft.points / 4));
        x[q] = {x[q].re * w[0], x[q].im * w[1]};
    }
    finish_radix4(x, data, fft.points, j, fft.twiddles);
}

// |X[k]|^2 and |X[M - k]|^2 for k = 1 .. M / 2 - 1 of frames whose window was halved:
// X[k] = E + w^k O and X[M - k] = conj(E - w^k O) with E = Z[k] + conj(Z[M - k]) and O = -i (Z[k] - conj(Z[M - k])).
DUOTOK_PHASE void split_pair(const Lane *data, const FftTables &fft, int k, Lane *spectrum) {
    const Complex a = load_point(data, fft.position[k]), b = load_point(data, fft.position[fft.points - k]);
    const Complex even = {a.re + b.re, a.im - b.im};
    const Complex odd = times({a.im + b.im, b.re - a.re}, fft.split + 2 * k);
    const Complex low = add(even, odd), high = subtract(even, odd);
    spectrum[k] = low.re * low.re + low.im * low.im;
    spectrum[fft.points - k] = high.re * high.re + high.im * high.im;
}

// The three bins that pair with themselves: 0, M / 2 and M.
DUOTOK_PHASE void split_ends(const Lane *data, const FftTables &fft, Lane *spectrum) {
    const Complex first = load_point(data, fft.position[0]), middle = load_point(data, fft.position[fft.points / 2]);
    const Lane low = first.re + first.im, high = first.re - first.im;
    spectrum[0] = 4.0f * low * low;
    spectrum[fft.points / 2] = 4.0f * (middle.re * middle.re + middle.im * middle.im);
    spectrum[fft.points] = 4.0f * high * high;
}
