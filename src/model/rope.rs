//! The rotary table: cosines and sines of every position.

/// [positions, head_dim]: for position p, cos(p·f_i) for the head_dim/2 frequencies f_i = θ^(−2i/head_dim), then sin(p·f_i).
///
/// Frequencies and angles are rounded to f32 as transformers rounds them; the cosine of the rounded angle is exact to f32.
pub fn rope_table(positions: usize, head_dim: usize, theta: f64) -> Vec<f32> {
    let half = head_dim / 2;
    let frequencies: Vec<f32> = (0..half)
        .map(|i| {
            let exponent = (2 * i) as f32 / head_dim as f32;
            1.0 / theta.powf(f64::from(exponent)) as f32
        })
        .collect();
    let mut table = Vec::with_capacity(positions * head_dim);
    for position in 0..positions {
        let angles = frequencies.iter().map(|f| f64::from(position as f32 * f));
        table.extend(angles.clone().map(|angle| angle.cos() as f32));
        table.extend(angles.map(|angle| angle.sin() as f32));
    }
    table
}
