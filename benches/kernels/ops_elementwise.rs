//! Rows of ops that are bound by memory and work token by token: norms, rotary positions, SwiGLU, the embedding.

use patarm::ops::OpResult;
use patarm::ops::embedding::{EmbeddingBackward, EmbeddingForward};
use patarm::ops::qk_norm_rope::{HeadSizes, QkNormRopeBackward, QkNormRopeForward};
use patarm::ops::rmsnorm::{Residual, RmsNormBackward, RmsNormForward};
use patarm::ops::swiglu::{SwigluBackward, SwigluForward};

use super::Shape;
use super::measure::Bench;

pub const ROWS: [fn(&Bench, &Shape) -> OpResult; 8] = [
    rmsnorm_forward,
    rmsnorm_backward,
    qk_norm_rope_forward,
    qk_norm_rope_backward,
    swiglu_forward,
    swiglu_backward,
    embedding_forward,
    embedding_backward,
];

fn rmsnorm_forward(bench: &Bench, shape: &Shape) -> OpResult {
    let Some(row) = bench.row("rmsnorm forward", shape) else { return Ok(()) };
    let (rows, cols) = (shape.tokens, shape.hidden);
    let size = rows * cols;
    let (copies, (mut out, mut sum, mut inv_rms, x, delta, weight)) = bench.buffers(|set| {
        let (out, sum, inv_rms) = (set.output(size)?, set.output(size)?, set.output(rows)?);
        Ok((out, sum, inv_rms, set.input(size)?, set.input(size)?, set.input(cols)?))
    })?;
    let measured = row.measure(format!("{rows} × {cols}"), copies, |caller, copy| {
        caller.call(RmsNormForward {
            out: out.at_mut(copy),
            inv_rms: inv_rms.at_mut(copy),
            residual: Some(Residual { sum: sum.at_mut(copy), delta: delta.at(copy) }),
            x: x.at(copy),
            weight: weight.at(copy),
            rows,
            cols,
            epsilon: 1e-6,
        })
    });
    measured.check(&[("out", &out), ("sum", &sum), ("inv_rms", &inv_rms)]);
    Ok(())
}

fn rmsnorm_backward(bench: &Bench, shape: &Shape) -> OpResult {
    let Some(row) = bench.row("rmsnorm backward", shape) else { return Ok(()) };
    let (rows, cols) = (shape.tokens, shape.hidden);
    let size = rows * cols;
    let (copies, (mut d_sum, mut d_weight, d_out, sum, inv_rms, weight)) = bench.buffers(|set| {
        let (d_sum, d_weight) = (set.changed(size)?, set.changed(cols)?);
        Ok((d_sum, d_weight, set.input(size)?, set.input(size)?, set.input(rows)?, set.input(cols)?))
    })?;
    let measured = row.measure(format!("{rows} × {cols}"), copies, |caller, copy| {
        caller.call(RmsNormBackward {
            d_sum: d_sum.at_mut(copy),
            d_weight: Some(d_weight.at_mut(copy)),
            d_out: d_out.at(copy),
            sum: sum.at(copy),
            inv_rms: inv_rms.at(copy),
            weight: weight.at(copy),
            rows,
            cols,
            overwrite: false,
        })
    });
    measured.check(&[("d_sum", &d_sum), ("d_weight", &d_weight)]);
    Ok(())
}

/// Every token's keys and values have a pool row; positions are those of packed sequences.
fn head_sizes(shape: &Shape) -> HeadSizes {
    let &Shape { tokens, q_heads, kv_heads, head_dim, length, .. } = shape;
    HeadSizes { tokens, q_heads, kv_heads, head_dim, pool_rows: tokens, rope_rows: length }
}

fn head_text(sizes: &HeadSizes) -> String {
    format!("{} × ({} + 2 · {}) · {}", sizes.tokens, sizes.q_heads, sizes.kv_heads, sizes.head_dim)
}

fn qk_norm_rope_forward(bench: &Bench, shape: &Shape) -> OpResult {
    let Some(row) = bench.row("qk_norm_rope forward", shape) else { return Ok(()) };
    let (sizes, tokens, dim) = (head_sizes(shape), shape.tokens, shape.head_dim);
    let (q_len, kv_len, heads) = (tokens * shape.q_dim(), tokens * shape.kv_dim(), shape.q_heads + shape.kv_heads);
    let (copies, (mut q, mut k_pool, mut v_pool, mut inv_rms)) = bench.buffers(|set| {
        Ok((set.output(q_len)?, set.output(kv_len)?, set.output(kv_len)?, set.output(tokens * heads)?))
    })?;
    let inputs = bench.buffers(|set| {
        let (qkv, rope) = (set.input(tokens * sizes.qkv_cols())?, set.input(sizes.rope_rows * dim)?);
        let (positions, kv_rows) = (
            set.words(tokens, |_, token| (token % sizes.rope_rows) as u32)?,
            set.words(tokens, |_, token| token as u32)?,
        );
        Ok((qkv, set.input(dim)?, set.input(dim)?, rope, positions, kv_rows))
    })?;
    let (input_copies, (qkv, q_weight, k_weight, rope, positions, kv_rows)) = inputs;
    let measured = row.measure(head_text(&sizes), copies.max(input_copies), |caller, copy| {
        caller.call(QkNormRopeForward {
            q: q.at_mut(copy),
            k_pool: k_pool.at_mut(copy),
            v_pool: v_pool.at_mut(copy),
            inv_rms: inv_rms.at_mut(copy),
            qkv: qkv.at(copy),
            q_weight: q_weight.at(copy),
            k_weight: k_weight.at(copy),
            rope: rope.at(copy),
            positions: positions.at(copy),
            kv_rows: kv_rows.at(copy),
            sizes,
            epsilon: 1e-6,
        })
    });
    measured.check(&[("q", &q), ("k_pool", &k_pool), ("v_pool", &v_pool), ("inv_rms", &inv_rms)]);
    Ok(())
}

fn qk_norm_rope_backward(bench: &Bench, shape: &Shape) -> OpResult {
    let Some(row) = bench.row("qk_norm_rope backward", shape) else { return Ok(()) };
    let (sizes, tokens, dim) = (head_sizes(shape), shape.tokens, shape.head_dim);
    let (q_len, kv_len, heads) = (tokens * shape.q_dim(), tokens * shape.kv_dim(), shape.q_heads + shape.kv_heads);
    let qkv_len = tokens * sizes.qkv_cols();
    let (copies, (mut d_qkv, mut d_q_weight, mut d_k_weight)) =
        bench.buffers(|set| Ok((set.output(qkv_len)?, set.changed(dim)?, set.changed(dim)?)))?;
    let gradients =
        bench.buffers(|set| Ok((set.input(q_len)?, set.input(kv_len)?, set.input(kv_len)?, set.input(qkv_len)?)))?;
    let (gradient_copies, (d_q, d_k_pool, d_v_pool, qkv)) = gradients;
    let (_, (inv_rms, q_weight, k_weight, rope, positions, kv_rows)) = bench.buffers(|set| {
        let (inv_rms, rope) = (set.input(tokens * heads)?, set.input(sizes.rope_rows * dim)?);
        let (positions, kv_rows) = (
            set.words(tokens, |_, token| (token % sizes.rope_rows) as u32)?,
            set.words(tokens, |_, token| token as u32)?,
        );
        Ok((inv_rms, set.input(dim)?, set.input(dim)?, rope, positions, kv_rows))
    })?;
    let measured = row.measure(head_text(&sizes), copies.max(gradient_copies), |caller, copy| {
        caller.call(QkNormRopeBackward {
            d_qkv: d_qkv.at_mut(copy),
            d_q_weight: Some(d_q_weight.at_mut(copy)),
            d_k_weight: Some(d_k_weight.at_mut(copy)),
            d_q: d_q.at(copy),
            d_k_pool: d_k_pool.at(copy),
            d_v_pool: d_v_pool.at(copy),
            qkv: qkv.at(copy),
            inv_rms: inv_rms.at(copy),
            q_weight: q_weight.at(copy),
            k_weight: k_weight.at(copy),
            rope: rope.at(copy),
            positions: positions.at(copy),
            kv_rows: kv_rows.at(copy),
            sizes,
        })
    });
    measured.check(&[("d_qkv", &d_qkv), ("d_q_weight", &d_q_weight), ("d_k_weight", &d_k_weight)]);
    Ok(())
}

fn swiglu_forward(bench: &Bench, shape: &Shape) -> OpResult {
    let Some(row) = bench.row("swiglu forward", shape) else { return Ok(()) };
    let (rows, cols) = (shape.tokens, shape.intermediate);
    let (copies, (mut out, gate_up)) =
        bench.buffers(|set| Ok((set.output(rows * cols)?, set.input(2 * rows * cols)?)))?;
    let measured = row.measure(format!("{rows} × {cols}"), copies, |caller, copy| {
        caller.call(SwigluForward { out: out.at_mut(copy), gate_up: gate_up.at(copy), rows, cols })
    });
    measured.check(&[("out", &out)]);
    Ok(())
}

fn swiglu_backward(bench: &Bench, shape: &Shape) -> OpResult {
    let Some(row) = bench.row("swiglu backward", shape) else { return Ok(()) };
    let (rows, cols) = (shape.tokens, shape.intermediate);
    let size = rows * cols;
    let (copies, (mut d_gate_up, d_out, gate_up)) =
        bench.buffers(|set| Ok((set.output(2 * size)?, set.input(size)?, set.input(2 * size)?)))?;
    let measured = row.measure(format!("{rows} × {cols}"), copies, |caller, copy| {
        let (d_out, gate_up) = (d_out.at(copy), gate_up.at(copy));
        caller.call(SwigluBackward { d_gate_up: d_gate_up.at_mut(copy), d_out, gate_up, rows, cols })
    });
    measured.check(&[("d_gate_up", &d_gate_up)]);
    Ok(())
}

/// Ids that are far from each other and differ in each copy: a call touches only a part of the table, so whole tables would not
/// fill the cache.
fn id(copy: usize, token: usize, shape: &Shape) -> u32 {
    ((copy * shape.tokens + token) * 7919 % shape.vocab) as u32
}

fn embedding_forward(bench: &Bench, shape: &Shape) -> OpResult {
    let Some(row) = bench.row("embedding forward", shape) else { return Ok(()) };
    let &Shape { tokens, hidden, vocab, .. } = shape;
    let (_, table) = bench.buffers(|set| set.input(vocab * hidden))?;
    let (copies, (mut out, ids)) = bench
        .buffers(|set| Ok((set.output(tokens * hidden)?, set.words(tokens, |copy, token| id(copy, token, shape))?)))?;
    let measured = row.measure(format!("{tokens} × {hidden} of {vocab}"), copies, |caller, copy| {
        let (table, ids) = (table.at(copy), ids.at(copy));
        caller.call(EmbeddingForward { out: out.at_mut(copy), table, ids, tokens, hidden, vocab })
    });
    measured.check(&[("out", &out)]);
    Ok(())
}

fn embedding_backward(bench: &Bench, shape: &Shape) -> OpResult {
    let Some(row) = bench.row("embedding backward", shape) else { return Ok(()) };
    let &Shape { tokens, hidden, vocab, .. } = shape;
    let (_, mut d_table) = bench.buffers(|set| set.changed(vocab * hidden))?;
    let (copies, (d_out, ids)) = bench
        .buffers(|set| Ok((set.input(tokens * hidden)?, set.words(tokens, |copy, token| id(copy, token, shape))?)))?;
    let measured = row.measure(format!("{tokens} × {hidden} of {vocab}"), copies, |caller, copy| {
        let (d_out, ids) = (d_out.at(copy), ids.at(copy));
        caller.call(EmbeddingBackward { d_table: d_table.at_mut(copy), d_out, ids, tokens, hidden, vocab })
    });
    measured.check(&[("d_table", &d_table)]);
    Ok(())
}
