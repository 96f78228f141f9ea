//! Rotary positions: the frequencies of every scaling that is computed, and the table of cosines and sines.
//!
//! Formulas and roundings are those of transformers' modeling_rope_utils: frequencies and angles are f32, so that a position
//! far out turns by the same angle there and here.

/// How positions become angles, as config.json says it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The base θ of the frequencies f_i = θ^(−2i/head_dim).
    pub theta: f64,
    pub scaling: RopeScaling,
}

/// What makes a model that was trained on short texts read longer ones.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    Default,
    /// All frequencies ÷ factor (position interpolation).
    Linear {
        factor: f64,
    },
    Yarn(Yarn),
    Llama3(Llama3),
}

/// YaRN (Peng et al., 2023): low frequencies ÷ factor, high ones as they are, a ramp between them; cosines and sines are
/// multiplied by the attention factor.
#[derive(Clone, Debug, PartialEq)]
pub struct Yarn {
    pub factor: f64,
    /// Positions that the model was trained on before it was scaled.
    pub original_context: f64,
    /// Rotations over the original context above which a frequency is left alone.
    pub beta_fast: f64,
    /// Rotations below which a frequency is divided by the whole factor.
    pub beta_slow: f64,
    pub attention_factor: f64,
    /// Whether the ends of the ramp are whole indices.
    pub truncate: bool,
}

/// The scaling of Llama 3.1: as YaRN's, with a ramp in the wavelength and no attention factor.
#[derive(Clone, Debug, PartialEq)]
pub struct Llama3 {
    pub factor: f64,
    pub low_freq_factor: f64,
    pub high_freq_factor: f64,
    pub original_context: f64,
}

impl Rope {
    /// Without scaling.
    pub fn new(theta: f64) -> Self {
        Self { theta, scaling: RopeScaling::Default }
    }

    /// What cosines and sines are multiplied by.
    pub fn attention_factor(&self) -> f64 {
        match &self.scaling {
            RopeScaling::Yarn(yarn) => yarn.attention_factor,
            _ => 1.0,
        }
    }

    /// The longest text, where `trained` is `max_position_embeddings`. As in vLLM, scaling makes it longer whether or not
    /// config.json was changed to say so: Qwen3's card leaves it at 40,960 beside a YaRN factor of 4 over 32,768.
    pub fn context(&self, trained: usize) -> usize {
        let scaled = match &self.scaling {
            RopeScaling::Default | RopeScaling::Llama3(_) => 0.0,
            RopeScaling::Linear { factor } => factor * trained as f64,
            RopeScaling::Yarn(yarn) => yarn.factor * yarn.original_context,
        };
        // The conversion saturates, and f32 counts no further.
        trained.max((scaled as usize).min(POSITIONS_MAX))
    }

    /// [head_dim/2]: the angle of one position.
    pub fn frequencies(&self, head_dim: usize) -> Vec<f32> {
        let base = f64::from(self.theta as f32);
        let exponent = |i: usize| (2 * i) as f32 / head_dim as f32;
        // Positions of a turn by one radian.
        let periods = (0..head_dim / 2).map(|i| base.powf(f64::from(exponent(i))) as f32);
        match &self.scaling {
            RopeScaling::Default => periods.map(|p| 1.0 / p).collect(),
            RopeScaling::Linear { factor } => periods.map(|p| 1.0 / p / *factor as f32).collect(),
            RopeScaling::Yarn(yarn) => {
                let ramp = yarn.ramp(self.theta, head_dim);
                let scaled = |p: f32| 1.0 / (yarn.factor as f32 * p);
                periods.zip(ramp).map(|(p, share)| scaled(p) * (1.0 - share) + 1.0 / p * share).collect()
            }
            RopeScaling::Llama3(llama3) => periods.map(|p| llama3.scaled(1.0 / p)).collect(),
        }
    }
}

/// Positions are counted in f32, which holds every whole number up to this one.
pub const POSITIONS_MAX: usize = 1 << 24;

impl Yarn {
    /// The attention factor where config.json gives none: 0.1·ln(factor) + 1, or the quotient of two such numbers where both
    /// `mscale` and `mscale_all_dim` are given and not 0.
    pub fn default_attention_factor(factor: f64, mscale: Option<f64>, mscale_all_dim: Option<f64>) -> f64 {
        let of = |scale: f64| if factor <= 1.0 { 1.0 } else { 0.1 * scale * factor.ln() + 1.0 };
        match (mscale, mscale_all_dim) {
            (Some(a), Some(b)) if a != 0.0 && b != 0.0 => of(a) / of(b),
            _ => of(1.0),
        }
    }

    /// [head_dim/2]: the share of a frequency that is left alone.
    fn ramp(&self, theta: f64, head_dim: usize) -> impl Iterator<Item = f32> {
        // The index of the frequency that turns so many times within the original context.
        let index = |rotations: f64| {
            let turns = self.original_context / (rotations * 2.0 * std::f64::consts::PI);
            head_dim as f64 * turns.ln() / (2.0 * theta.ln())
        };
        let (mut low, mut high) = (index(self.beta_fast), index(self.beta_slow));
        if self.truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(head_dim as f64 - 1.0));
        if low == high {
            high += 0.001;
        }
        let (low, width) = (low as f32, (high - low) as f32);
        (0..head_dim / 2).map(move |i| 1.0 - ((i as f32 - low) / width).clamp(0.0, 1.0))
    }
}

impl Llama3 {
    fn scaled(&self, frequency: f32) -> f32 {
        let wavelength = 1.0 / frequency * std::f32::consts::TAU;
        let (low, high, factor) = (self.low_freq_factor, self.high_freq_factor, self.factor as f32);
        if wavelength > (self.original_context / low) as f32 {
            return frequency / factor;
        }
        if wavelength < (self.original_context / high) as f32 {
            return frequency;
        }
        let smooth = (1.0 / wavelength * self.original_context as f32 - low as f32) / (high - low) as f32;
        (1.0 - smooth) * frequency / factor + smooth * frequency
    }
}

/// [positions, head_dim]: for position p, cos(p·f_i) for the head_dim/2 frequencies, then sin(p·f_i), both times the attention
/// factor.
///
/// Frequencies and angles are rounded to f32 as transformers rounds them; the cosine of the rounded angle is exact to f32.
pub fn rope_table(positions: usize, head_dim: usize, rope: &Rope) -> Vec<f32> {
    let (frequencies, factor) = (rope.frequencies(head_dim), rope.attention_factor() as f32);
    let mut table = Vec::with_capacity(positions * head_dim);
    for position in 0..positions {
        let angles = frequencies.iter().map(|f| f64::from(position as f32 * f));
        table.extend(angles.clone().map(|angle| angle.cos() as f32 * factor));
        table.extend(angles.map(|angle| angle.sin() as f32 * factor));
    }
    table
}
