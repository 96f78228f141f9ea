//! Rows of attention: training on packed sequences and on prompts that eight rollouts share, and decode steps on pages.

use patarm::ops::OpResult;
use patarm::ops::attention::{AttentionBackward, AttentionForward, AttentionSizes, Run, SegmentTable};

use super::measure::Bench;
use super::{ROLLOUTS, Shape};

pub const ROWS: [fn(&Bench, &Shape) -> OpResult; 3] = [packed, shared_prompts, decode];

/// Rows of a page of the key and value pools, as in the rollout engine.
const PAGE: usize = 16;

fn sizes(shape: &Shape, pool_rows: usize) -> AttentionSizes {
    let &Shape { q_heads, kv_heads, head_dim, .. } = shape;
    AttentionSizes { q_heads, kv_heads, head_dim, pool_rows, scale: 1.0 / (head_dim as f32).sqrt() }
}

/// Consecutive rows of the pool.
fn run(start: usize, len: usize) -> Run {
    Run { start: start as u32, len: len as u32 }
}

/// Packed sequences of one length.
fn packed(bench: &Bench, shape: &Shape) -> OpResult {
    let (mut segments, count) = (SegmentTable::default(), shape.tokens / shape.length);
    for sequence in 0..count {
        segments.push(shape.length, [run(sequence * shape.length, shape.length)]);
    }
    segments.group();
    let text = format!("{count} × {} keys", shape.length);
    forward(bench, shape, "attention forward", &text, &segments)?;
    backward(bench, shape, "attention backward", &text, &segments)
}

/// As RL packs shared-prefix sequences: a prompt's tokens once, then its rollouts, whose keys begin with the prompt's.
fn shared_prompts(bench: &Bench, shape: &Shape) -> OpResult {
    let &Shape { prompt, own, .. } = shape;
    let prompts = (shape.tokens / (prompt + ROLLOUTS * own)).max(1);
    let (mut segments, mut first) = (SegmentTable::default(), 0);
    for _ in 0..prompts {
        let prompt_run = run(first, prompt);
        segments.push(prompt, [prompt_run]);
        first += prompt;
        for _ in 0..ROLLOUTS {
            segments.push(own, [prompt_run, run(first, own)]);
            first += own;
        }
    }
    segments.group();
    let text = format!("{prompts} × ({prompt} + {ROLLOUTS} · {own}) keys");
    forward(bench, shape, "attention forward, shared prompts", &text, &segments)?;
    backward(bench, shape, "attention backward, shared prompts", &text, &segments)
}

/// Every query has a pool row.
fn forward(bench: &Bench, shape: &Shape, name: &str, text: &str, segments: &SegmentTable) -> OpResult {
    let Some(row) = bench.row(name, shape) else { return Ok(()) };
    let tokens = segments.queries();
    let (q_len, kv_len, rows) = (tokens * shape.q_dim(), tokens * shape.kv_dim(), tokens * shape.q_heads);
    let (copies, (mut out, mut log_sum_exp, q, k_pool, v_pool)) = bench.buffers(|set| {
        Ok((set.output(q_len)?, set.output(rows)?, set.input(q_len)?, set.input(kv_len)?, set.input(kv_len)?))
    })?;
    let measured = row.measure(text.into(), copies, |caller, copy| {
        caller.call(AttentionForward {
            out: out.at_mut(copy),
            log_sum_exp: Some(log_sum_exp.at_mut(copy)),
            q: q.at(copy),
            k_pool: k_pool.at(copy),
            v_pool: v_pool.at(copy),
            segments,
            sizes: sizes(shape, tokens),
        })
    });
    measured.check(&[("out", &out), ("log_sum_exp", &log_sum_exp)]);
    Ok(())
}

fn backward(bench: &Bench, shape: &Shape, name: &str, text: &str, segments: &SegmentTable) -> OpResult {
    let Some(row) = bench.row(name, shape) else { return Ok(()) };
    let tokens = segments.queries();
    let (q_len, kv_len, rows) = (tokens * shape.q_dim(), tokens * shape.kv_dim(), tokens * shape.q_heads);
    let (copies, (gradients, queries, pools)) = bench.buffers(|set| {
        let gradients = (set.output(q_len)?, set.changed(kv_len)?, set.changed(kv_len)?);
        let queries = (set.input(q_len)?, set.input(q_len)?, set.input(q_len)?, set.input(rows)?);
        Ok((gradients, queries, (set.input(kv_len)?, set.input(kv_len)?)))
    })?;
    let ((mut d_q, mut d_k_pool, mut d_v_pool), (q, out, d_out, log_sum_exp)) = (gradients, queries);
    let (k_pool, v_pool) = pools;
    let measured = row.measure(text.into(), copies, |caller, copy| {
        caller.call(AttentionBackward {
            d_q: d_q.at_mut(copy),
            d_k_pool: d_k_pool.at_mut(copy),
            d_v_pool: d_v_pool.at_mut(copy),
            d_out: d_out.at(copy),
            out: out.at(copy),
            log_sum_exp: log_sum_exp.at(copy),
            q: q.at(copy),
            k_pool: k_pool.at(copy),
            v_pool: v_pool.at(copy),
            segments,
            sizes: sizes(shape, tokens),
        })
    });
    measured.check(&[("d_q", &d_q), ("d_k_pool", &d_k_pool), ("d_v_pool", &d_v_pool)]);
    Ok(())
}

fn decode(bench: &Bench, shape: &Shape) -> OpResult {
    for sequences in [1, 8, 64, 256] {
        decode_step(bench, shape, &format!("attention decode {sequences}"), sequences, 1)?;
    }
    for sequences in [8, 64, 256] {
        let name = format!("attention decode {sequences}, shared prompts");
        decode_step(bench, shape, &name, sequences, ROLLOUTS)?;
    }
    Ok(())
}

/// Runs of the pages of owner number `owner` of `owners`, whose pages are far from each other, for `len` rows.
fn pages(first_page: usize, owner: usize, owners: usize, len: usize) -> impl Iterator<Item = Run> {
    let page = move |index: usize| (first_page + index * owners + owner) * PAGE;
    (0..len).step_by(PAGE).map(move |row| run(page(row / PAGE), PAGE.min(len - row)))
}

/// Each sequence adds a token to `prompt` + `own` keys; `group` of them share a prompt.
fn decode_step(bench: &Bench, shape: &Shape, name: &str, sequences: usize, group: usize) -> OpResult {
    let Some(row) = bench.row(name, shape) else { return Ok(()) };
    let (&Shape { prompt, own, .. }, prompts) = (shape, sequences / group);
    let own_pages = prompts * prompt.div_ceil(PAGE);
    let mut segments = SegmentTable::default();
    for sequence in 0..sequences {
        let shared = pages(0, sequence / group, prompts, prompt);
        segments.push(1, shared.chain(pages(own_pages, sequence, sequences, own)));
    }
    let pool_rows = (own_pages + sequences * own.div_ceil(PAGE)) * PAGE;
    let (q_len, kv_len) = (sequences * shape.q_dim(), pool_rows * shape.kv_dim());
    let (copies, (mut out, q, k_pool, v_pool)) =
        bench.buffers(|set| Ok((set.output(q_len)?, set.input(q_len)?, set.input(kv_len)?, set.input(kv_len)?)))?;
    let text = format!("{sequences} × ({prompt} + {own}) keys");
    let measured = row.measure(text, copies, |caller, copy| {
        caller.call(AttentionForward {
            out: out.at_mut(copy),
            log_sum_exp: None,
            q: q.at(copy),
            k_pool: k_pool.at(copy),
            v_pool: v_pool.at(copy),
            segments: &segments,
            sizes: sizes(shape, pool_rows),
        })
    });
    measured.check(&[("out", &out)]);
    Ok(())
}
