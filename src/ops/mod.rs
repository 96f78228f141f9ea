//! The table of contents of the maths: one contract per op.
