//! Six kernels that only compute: `compute:TIMES`. The same program runs in plain wasmtime.
//!
//! Each checks its own result, so a figure is of work that was done.

use std::collections::HashMap;
use std::hint::black_box;
use std::time::Instant;

fn main() {
    let row = std::env::args().nth(1).unwrap_or_default();
    let times: u32 = row
        .strip_prefix("compute:")
        .and_then(|times| times.parse().ok())
        .expect("the row is compute:TIMES");
    let kernels: [(&str, fn()); 6] = [
        ("fib_ms", || assert_eq!(fib(black_box(27)), 196_418)),
        ("loop_ms", dependent_loop),
        ("nbody_ms", nbody),
        ("sieve_ms", sieve),
        ("sort_ms", sort_and_hash),
        ("matmul_ms", matmul),
    ];
    let mut sum = 0.0;
    let figures: String = kernels
        .iter()
        .map(|(name, kernel)| {
            let begun = Instant::now();
            (0..times).for_each(|_| kernel());
            let ms = begun.elapsed().as_secs_f64() * 1e3;
            sum += ms;
            format!("\"{name}\":{ms},")
        })
        .collect();
    println!("{{\"row\":\"{row}\",{figures}\"sum_ms\":{sum}}}");
}

fn fib(n: u32) -> u64 {
    if n < 2 {
        u64::from(n)
    } else {
        fib(n - 1) + fib(n - 2)
    }
}

/// Each step needs the one before.
fn dependent_loop() {
    let mut x = black_box(1_u64);
    for _ in 0..2_000_000 {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    }
    assert_ne!(black_box(x), 0);
}

/// Five bodies that attract each other; their momentum stays what it was.
fn nbody() {
    let mut bodies: Vec<[f64; 6]> = (1..=5)
        .map(|n| {
            let n = f64::from(n);
            [n, n * n, -n, 1.0 / n, -1.0 / n, 0.5 / n]
        })
        .collect();
    let momentum = |bodies: &[[f64; 6]]| bodies.iter().map(|body| body[3]).sum::<f64>();
    let before = momentum(&bodies);
    for _ in 0..20_000 {
        for a in 0..5 {
            for b in a + 1..5 {
                let between: [f64; 3] = std::array::from_fn(|i| bodies[a][i] - bodies[b][i]);
                let squares: f64 = between.iter().map(|d| d * d).sum::<f64>() + 0.01;
                let force = 0.0001 / (squares * squares.sqrt());
                for i in 0..3 {
                    bodies[a][i + 3] -= between[i] * force;
                    bodies[b][i + 3] += between[i] * force;
                }
            }
        }
        for body in &mut bodies {
            (0..3).for_each(|i| body[i] += 0.0001 * body[i + 3]);
        }
    }
    assert!((momentum(&bodies) - before).abs() < 1e-6);
}

fn sieve() {
    let mut composite = vec![false; 1_000_000];
    let mut primes = 0;
    for n in 2..composite.len() {
        if !composite[n] {
            primes += 1;
            (n.saturating_mul(n)..composite.len())
                .step_by(n)
                .for_each(|multiple| composite[multiple] = true);
        }
    }
    assert_eq!(primes, 78_498);
}

fn sort_and_hash() {
    let mut x = 1_u32;
    let mut numbers: Vec<u32> = (0..100_000)
        .map(|_| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            x >> 8
        })
        .collect();
    numbers.sort_unstable();
    assert!(numbers.is_sorted());
    let mut counts: HashMap<u32, u32> = HashMap::new();
    for number in &numbers {
        *counts.entry(number % 1000).or_default() += 1;
    }
    assert_eq!(counts.values().sum::<u32>(), 100_000);
}

/// A matrix times its inverse, which is a permutation turned around.
fn matmul() {
    const N: usize = 160;
    let mut a = vec![[0.0_f64; N]; N];
    let mut b = vec![[0.0_f64; N]; N];
    for i in 0..N {
        a[i][(i * 7 + 3) % N] = 2.0;
        b[(i * 7 + 3) % N][i] = 0.5;
    }
    let mut product = vec![[0.0_f64; N]; N];
    for i in 0..N {
        for j in 0..N {
            product[i][j] = (0..N).map(|k| black_box(a[i][k]) * b[k][j]).sum();
        }
    }
    assert!((0..N).all(|i| product[i][i] == 1.0));
}
