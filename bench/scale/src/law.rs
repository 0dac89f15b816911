//! The universal scalability law (Neil J. Gunther, "A General Theory of Computational Scalability Based on Rational
//! Functions", arXiv:0808.1431): `X(n) = λn / (1 + σ(n − 1) + κn(n − 1))`.

/// A fit of the law.
pub struct Law {
    /// The share of the work that waits for its turn.
    pub sigma: f64,
    /// The cost of agreement between each two of them.
    pub kappa: f64,
}

impl Law {
    /// Returns the number of workers with which throughput is highest, or `None` if it grows without end.
    pub fn peak(&self) -> Option<f64> {
        (self.kappa > 0.0).then(|| ((1.0 - self.sigma).max(0.0) / self.kappa).sqrt())
    }
}

/// Fits the law to points of workers and throughput, by least squares over `n / X(n)`, which is linear in the
/// coefficients. Coefficients are not negative. `None` for fewer than three points.
pub fn fit(points: &[(f64, f64)]) -> Option<Law> {
    if points.len() < 3 {
        return None;
    }
    let row = |n: f64| [1.0, n - 1.0, n * (n - 1.0)];
    let coefficients = |used: &[usize]| -> Option<[f64; 3]> {
        // The normal equations, of the columns in use.
        let size = used.len();
        let mut system = vec![vec![0.0; size + 1]; size];
        for (n, x) in points {
            // Relative errors count: large n do not outweigh the small ones.
            let (row, y) = (row(*n), n / x);
            for (i, a) in used.iter().enumerate() {
                for (j, b) in used.iter().enumerate() {
                    system[i][j] += row[*a] * row[*b] / (y * y);
                }
                system[i][size] += row[*a] / y;
            }
        }
        let solved = solve(system)?;
        let mut all = [0.0; 3];
        for (index, value) in used.iter().zip(solved) {
            all[*index] = value;
        }
        Some(all)
    };
    // A coefficient below zero has no meaning: the fit is made again without it.
    let mut best = coefficients(&[0, 1, 2])?;
    if best[2] < 0.0 {
        best = coefficients(&[0, 1])?;
    }
    if best[1] < 0.0 {
        best = coefficients(&[0, 2])?;
    }
    let [a, b, c] = best;
    Some(Law {
        sigma: b / a,
        kappa: c.max(0.0) / a,
    })
}

/// Gauss's elimination, of the largest pivot.
fn solve(mut system: Vec<Vec<f64>>) -> Option<Vec<f64>> {
    let size = system.len();
    for column in 0..size {
        let pivot = (column..size).max_by(|a, b| {
            system[*a][column]
                .abs()
                .total_cmp(&system[*b][column].abs())
        })?;
        system.swap(column, pivot);
        let pivot = system[column].clone();
        if pivot[column].abs() < f64::MIN_POSITIVE {
            return None;
        }
        for (index, row) in system.iter_mut().enumerate() {
            if index != column {
                let factor = row[column] / pivot[column];
                for (cell, above) in row.iter_mut().zip(&pivot) {
                    *cell -= factor * above;
                }
            }
        }
    }
    Some(
        (0..size)
            .map(|row| system[row][size] / system[row][row])
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(sigma: f64, kappa: f64) -> Vec<(f64, f64)> {
        let x = |n: f64| 5e5 * n / (1.0 + sigma * (n - 1.0) + kappa * n * (n - 1.0));
        [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]
            .map(|n| (n, x(n)))
            .to_vec()
    }

    #[test]
    fn a_fit_finds_the_coefficients() {
        for (sigma, kappa) in [(0.0, 0.0), (0.05, 0.0), (0.02, 0.0005), (0.9, 0.01)] {
            let law = fit(&points(sigma, kappa)).unwrap();
            assert!((law.sigma - sigma).abs() < 1e-6, "{sigma} {}", law.sigma);
            assert!((law.kappa - kappa).abs() < 1e-6, "{kappa} {}", law.kappa);
        }
    }

    #[test]
    fn the_peak_is_where_throughput_is_highest() {
        let law = fit(&points(0.02, 0.0005)).unwrap();
        assert!((law.peak().unwrap() - 44.27).abs() < 0.1);
        assert!(fit(&points(0.1, 0.0))
            .unwrap()
            .peak()
            .is_none_or(|n| n > 1e3));
    }

    #[test]
    fn two_points_are_too_few() {
        assert!(fit(&points(0.1, 0.0)[..2]).is_none());
    }
}
