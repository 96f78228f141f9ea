//! Test values: the edges of each type, and random numbers from a fixed sequence.

use super::types::Type;

/// A fixed random sequence (a linear congruential generator with mixing).
pub struct Sequence(u64);

impl Sequence {
    pub fn new(seed: u64) -> Sequence {
        Sequence(seed)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let x = self.0 ^ self.0 >> 29;
        x.wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ x >> 32
    }

    fn pick(&mut self, values: &[u64]) -> u64 {
        values[(self.draw() % values.len() as u64) as usize]
    }
}

/// Edge values of a type, as bits.
pub fn edges(ty: Type) -> Vec<u64> {
    let bits = ty.bits();
    if let Some(half) = ty.half() {
        let halves = edges(half);
        return (0..halves.len()).map(|i| halves[i] | halves[(i * 7 + 3) % halves.len()] << 16).collect();
    }
    let ones = ty.ones();
    if let Some(format) = ty.format() {
        let (one, infinity) = (format.one(), format.infinity());
        let ulp_half = format.fraction as u64;
        let step = 1 << format.fraction;
        let mut values = vec![
            0,
            1,
            2,
            3,
            step - 1,
            step,
            step + 1,
            one,
            one + 1,
            one - 1,
            one + step / 2,
            one + step,
            one + step + step / 4,
            one + step * 3 / 2 + 1,
            one - step,
            one - 2 * step + 1,
            one - ulp_half * step,
            one - (ulp_half + 1) * step,
            one - (ulp_half + 1) * step + 1,
            one + ulp_half * step + 1,
            infinity - 1,
            infinity - 2,
            infinity - step,
            infinity,
            infinity + 1,
            infinity | (step / 2),
        ];
        for edge in [7_u64, 8, 15, 16, 31, 32, 63, 64] {
            if edge < 1 << (format.exponent - 1) {
                values.extend([one + edge * step, one + edge * step - 1, one + (edge - 1) * step + step / 2]);
            }
        }
        values.extend(values.clone().iter().map(|x| x | format.sign()));
        return values;
    }
    let high = 1_u64 << (bits - 1);
    let mut values = vec![0, 1, 2, 3, 5, 7, 8, 15, 16, 17, 24, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 257];
    values.extend([
        high,
        high - 1,
        high + 1,
        high | high >> 1,
        ones,
        ones - 1,
        ones - 2,
        ones / 3,
        ones / 5,
        ones / 15 * 7,
    ]);
    values.into_iter().map(|x| x & ones).collect()
}

/// Tuples of sources: all pairs of edges (or many of them), then random ones.
pub fn tuples(sources: &[Type]) -> Vec<Vec<u64>> {
    let mut sequence = Sequence::new(0x5eed + sources.len() as u64);
    let edges: Vec<Vec<u64>> = sources.iter().map(|ty| edges(*ty)).collect();
    let mut tuples = Vec::new();
    match edges.as_slice() {
        [a] => tuples.extend(a.iter().map(|a| vec![*a])),
        [a, b] => tuples.extend(a.iter().flat_map(|a| b.iter().map(|b| vec![*a, *b]))),
        _ => {
            for _ in 0..3000 {
                tuples.push(edges.iter().map(|values| sequence.pick(values)).collect());
            }
        }
    }
    for _ in 0..700 {
        let drawn: Vec<u64> = sources.iter().map(|ty| sequence.draw() & ty.ones()).collect();
        // Also numbers with similar exponents, whose sums round and cancel.
        let near: Vec<u64> = match sources[0].format() {
            Some(format) => drawn.iter().map(|x| near_one(*x, format, sequence.draw())).collect(),
            None => drawn.iter().map(|x| x >> (sequence.draw() % sources[0].bits() as u64)).collect(),
        };
        tuples.push(drawn);
        tuples.push(near.iter().zip(sources).map(|(x, ty)| x & ty.ones()).collect());
    }
    tuples
}

/// The fraction and sign of x with an exponent near that of one.
fn near_one(x: u64, format: super::exact::Format, draw: u64) -> u64 {
    let away = draw % (2 * format.fraction as u64 + 4);
    let fraction = x & ((1 << format.fraction) - 1) & (!0 << (draw >> 32 & 31));
    let one = format.one() >> format.fraction;
    let field = (one + away).saturating_sub(format.fraction as u64 + 2).min((1 << format.exponent) - 2);
    x & format.sign() | field << format.fraction | fraction
}
