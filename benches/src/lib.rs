//! Shared helpers of the benchmarks; the benchmarks themselves are in `benches/`.
