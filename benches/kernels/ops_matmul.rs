//! Rows of matmuls: the four of a layer in training and decoding, and the LM head.

use patarm::ops::OpResult;
use patarm::ops::linear::{LinearBackwardInput, LinearBackwardWeight, LinearForward, LinearSizes};
use patarm::ops::lm_head::{LmHead, LmHeadGradient, LmHeadLogits, LmHeadLoss, TokenLoss};

use super::Shape;
use super::measure::Bench;

pub const ROWS: [fn(&Bench, &Shape) -> OpResult; 4] = [layer, layer_decode, lm_head, lm_head_decode];

/// Rows of a decode step.
const DECODES: [usize; 4] = [1, 8, 64, 256];

/// m × n × k of the forward matmul.
fn text(rows: usize, sizes: LinearSizes) -> String {
    format!("{rows} × {} × {}", sizes.out_features, sizes.in_features)
}

fn layer(bench: &Bench, shape: &Shape) -> OpResult {
    for (name, sizes) in shape.matrices() {
        forward(bench, shape, &format!("matmul {name} forward"), shape.tokens, sizes)?;
        backward_input(bench, shape, &format!("matmul {name} d_x"), sizes)?;
        backward_weight(bench, shape, &format!("matmul {name} d_w"), sizes)?;
    }
    Ok(())
}

fn layer_decode(bench: &Bench, shape: &Shape) -> OpResult {
    for (name, sizes) in shape.matrices() {
        for rows in DECODES {
            forward(bench, shape, &format!("matmul {name} decode {rows}"), rows, sizes)?;
        }
    }
    Ok(())
}

fn forward(bench: &Bench, shape: &Shape, name: &str, rows: usize, sizes: LinearSizes) -> OpResult {
    let Some(row) = bench.row(name, shape) else { return Ok(()) };
    let LinearSizes { out_features, in_features } = sizes;
    let (copies, (mut out, x, weights)) = bench
        .buffers(|set| Ok((set.output(rows * out_features)?, set.input(rows * in_features)?, set.weight(sizes)?)))?;
    let measured = row.measure(text(rows, sizes), copies, |caller, copy| {
        let (out, x, weight) = (out.at_mut(copy), x.at(copy), &weights[copy]);
        caller.call(LinearForward { out, x, weight, rows, sizes })
    });
    measured.check(&[("out", &out)]);
    Ok(())
}

fn backward_input(bench: &Bench, shape: &Shape, name: &str, sizes: LinearSizes) -> OpResult {
    let Some(row) = bench.row(name, shape) else { return Ok(()) };
    let (rows, LinearSizes { out_features, in_features }) = (shape.tokens, sizes);
    let (copies, (mut d_x, d_out, weights)) = bench
        .buffers(|set| Ok((set.output(rows * in_features)?, set.input(rows * out_features)?, set.weight(sizes)?)))?;
    let measured = row.measure(text(rows, sizes), copies, |caller, copy| {
        let (d_x, d_out, weight) = (d_x.at_mut(copy), d_out.at(copy), &weights[copy]);
        caller.call(LinearBackwardInput { d_x, d_out, weight, rows, sizes, accumulate: false })
    });
    measured.check(&[("d_x", &d_x)]);
    Ok(())
}

fn backward_weight(bench: &Bench, shape: &Shape, name: &str, sizes: LinearSizes) -> OpResult {
    let Some(row) = bench.row(name, shape) else { return Ok(()) };
    let (rows, LinearSizes { out_features, in_features }) = (shape.tokens, sizes);
    let (copies, (mut d_weight, d_out, x)) = bench.buffers(|set| {
        Ok((set.changed(sizes.len())?, set.input(rows * out_features)?, set.input(rows * in_features)?))
    })?;
    let measured = row.measure(text(rows, sizes), copies, |caller, copy| {
        let (d_weight, d_out, x) = (d_weight.at_mut(copy), d_out.at(copy), x.at(copy));
        caller.call(LinearBackwardWeight { d_weight, d_out, x, rows, sizes })
    });
    measured.check(&[("d_weight", &d_weight)]);
    Ok(())
}

fn lm_head(bench: &Bench, shape: &Shape) -> OpResult {
    lm_head_loss(bench, shape)?;
    lm_head_gradients(bench, shape)
}

fn lm_head_sizes(shape: &Shape) -> LinearSizes {
    LinearSizes { out_features: shape.vocab, in_features: shape.hidden }
}

fn target(token: usize, shape: &Shape) -> u32 {
    (token * 7919 % shape.vocab) as u32
}

/// Scoring: log-probabilities alone.
fn lm_head_loss(bench: &Bench, shape: &Shape) -> OpResult {
    let Some(row) = bench.row("lm_head loss", shape) else { return Ok(()) };
    let (tokens, sizes) = (shape.tokens, lm_head_sizes(shape));
    let (copies, (mut logprob, mut entropy, mut loss, hidden, weights, rows)) = bench.buffers(|set| {
        let (logprob, entropy, loss) = (set.output(tokens)?, set.output(tokens)?, set.output(tokens)?);
        let rows = set.words(tokens, |_, token| token as u32)?;
        Ok((logprob, entropy, loss, set.input(tokens * shape.hidden)?, set.weight(sizes)?, rows))
    })?;
    let (_, targets) = bench.buffers(|set| set.words(tokens, |_, token| target(token, shape)))?;
    let measured = row.measure(text(tokens, sizes), copies, |caller, copy| {
        caller.call(LmHeadLoss {
            logprob: logprob.at_mut(copy),
            entropy: entropy.at_mut(copy),
            loss: loss.at_mut(copy),
            gradient: None,
            hidden: hidden.at(copy),
            weight: &weights[copy],
            rows: rows.at(copy),
            targets: targets.at(copy),
            temperature: 1.0,
            tokens,
            chunk_rows: bench.device.lm_head_chunk_rows(sizes),
            sizes,
        })
    });
    measured.check(&[("logprob", &logprob), ("entropy", &entropy), ("loss", &loss)]);
    Ok(())
}

fn lm_head_gradients(bench: &Bench, shape: &Shape) -> OpResult {
    let Some(row) = bench.row("lm_head loss and gradients", shape) else { return Ok(()) };
    let (tokens, sizes) = (shape.tokens, lm_head_sizes(shape));
    let (copies, (outputs, d_hidden, d_weight, hidden, weights, words)) = bench.buffers(|set| {
        let outputs = [set.output(tokens)?, set.output(tokens)?, set.output(tokens)?];
        let words = (set.words(tokens, |_, token| token as u32)?, set.words(tokens, |_, token| target(token, shape))?);
        let (d_hidden, d_weight) = (set.output(tokens * shape.hidden)?, set.changed(sizes.len())?);
        Ok((outputs, d_hidden, d_weight, set.input(tokens * shape.hidden)?, set.weight(sizes)?, words))
    })?;
    let ([mut logprob, mut entropy, mut loss], mut d_hidden, mut d_weight) = (outputs, d_hidden, d_weight);
    let (rows, targets) = words;
    let (_, row_weight) = bench.buffers(|set| set.input(tokens))?;
    let measured = row.measure(text(tokens, sizes), copies, |caller, copy| {
        caller.call(LmHeadLoss {
            logprob: logprob.at_mut(copy),
            entropy: entropy.at_mut(copy),
            loss: loss.at_mut(copy),
            gradient: Some(LmHeadGradient {
                d_hidden: d_hidden.at_mut(copy),
                d_weight: Some(d_weight.at_mut(copy)),
                row_weight: row_weight.at(copy),
                loss: TokenLoss::CrossEntropy,
            }),
            hidden: hidden.at(copy),
            weight: &weights[copy],
            rows: rows.at(copy),
            targets: targets.at(copy),
            temperature: 1.0,
            tokens,
            chunk_rows: bench.device.lm_head_chunk_rows(sizes),
            sizes,
        })
    });
    measured.check(&[
        ("logprob", &logprob),
        ("entropy", &entropy),
        ("loss", &loss),
        ("d_hidden", &d_hidden),
        ("d_weight", &d_weight),
    ]);
    Ok(())
}

/// Logits of a decode step.
fn lm_head_decode(bench: &Bench, shape: &Shape) -> OpResult {
    for tokens in DECODES {
        let Some(row) = bench.row(&format!("lm_head decode {tokens}"), shape) else { continue };
        let sizes = lm_head_sizes(shape);
        let (copies, (mut out, hidden, weights, rows)) = bench.buffers(|set| {
            let rows = set.words(tokens, |_, token| token as u32)?;
            Ok((set.output(tokens * shape.vocab)?, set.input(tokens * shape.hidden)?, set.weight(sizes)?, rows))
        })?;
        let measured = row.measure(text(tokens, sizes), copies, |caller, copy| {
            let (hidden, rows) = (hidden.at(copy), rows.at(copy));
            caller.call(LmHeadLogits { out: out.at_mut(copy), hidden, weight: &weights[copy], rows, tokens, sizes })
        });
        measured.check(&[("out", &out)]);
    }
    Ok(())
}
