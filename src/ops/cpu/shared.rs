//! One output that many tasks write, each its own elements.

use std::marker::PhantomData;

/// A writable buffer shared by tasks that write disjoint ranges.
#[derive(Clone, Copy)]
pub struct SharedMut<'a> {
    start: *mut f32,
    len: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

// Safety: the pointer comes from an exclusive borrow that lives as long; callers of `slice` promise disjoint ranges.
unsafe impl Send for SharedMut<'_> {}
unsafe impl Sync for SharedMut<'_> {}

impl<'a> SharedMut<'a> {
    /// Borrows the buffer for as long as any copy of this lives.
    pub fn new(buffer: &'a mut [f32]) -> Self {
        Self { start: buffer.as_mut_ptr(), len: buffer.len(), lifetime: PhantomData }
    }

    /// `len` elements from `offset` on; panics if they are outside.
    ///
    /// # Safety
    /// While the slice lives, no other slice of this buffer may hold one of its elements.
    #[allow(clippy::mut_from_ref)]
    #[inline(always)]
    pub unsafe fn slice(&self, offset: usize, len: usize) -> &'a mut [f32] {
        assert!(offset <= self.len && len <= self.len - offset, "a slice outside its buffer");
        // Safety: inside the buffer by the assertion, and not aliased by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(offset), len) }
    }
}
