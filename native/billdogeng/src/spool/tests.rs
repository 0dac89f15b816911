use super::dir::Dir;
use super::*;
use crossbeam_channel::{unbounded, Receiver};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Instant;
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(20);
const ALL: Range<u64> = 0..u64::MAX;
const BOUNDS: Bounds = Bounds {
    max_bytes: 16 << 20,
    segment_bytes: 1 << 20,
    max_age: u64::MAX,
};

/// A spool and the calls of its listener.
struct Spooling {
    spool: Spool,
    wakes: Receiver<()>,
    recovered: Recovered,
}

fn options(dir: &Path) -> Options {
    Options {
        dir: dir.into(),
        max_bytes: 256 << 20,
        max_age: Duration::from_secs(7 * 86_400),
        patience: PATIENCE,
    }
}

fn try_open(options: &Options) -> Result<Spooling, OpenError> {
    let (report, wakes) = unbounded();
    let (spool, recovered) = Spool::open(options, move || {
        let _ = report.send(());
    })?;
    Ok(Spooling {
        spool,
        wakes,
        recovered,
    })
}

fn open(dir: &Path) -> Spooling {
    try_open(&options(dir)).unwrap()
}

impl Spooling {
    /// Waits for calls of the listener until `look` returns something.
    fn until<T>(&self, mut look: impl FnMut(&Spool) -> Option<T>) -> T {
        let until = Instant::now() + LONG;
        loop {
            if let Some(found) = look(&self.spool) {
                return found;
            }
            let left = until.saturating_duration_since(Instant::now());
            self.wakes.recv_timeout(left).expect("a wake-up");
        }
    }

    fn sync(&self) {
        let number = self.spool.sync();
        self.until(|spool| (spool.synced() >= number).then_some(()));
    }

    fn append(&self, numbers: Range<u64>) {
        numbers.for_each(|n| self.spool.append(n, event(n).as_bytes()));
    }

    fn stored(&self, mut numbers: Range<u64>) -> bool {
        numbers.all(|n| self.spool.whereabouts(n) == Whereabouts::Disk)
    }

    fn in_memory(&self) -> Vec<u64> {
        let inner = self.spool.shared.lock();
        let runs = inner.live.runs(&ALL);
        runs.flat_map(|run| inner.holes.within(&run).flatten().collect::<Vec<_>>())
            .collect()
    }

    fn problem(&self) -> Problem {
        self.until(|spool| spool.updates().problems.into_iter().next())
    }

    fn fetch(&self, max_events: usize, max_bytes: usize) -> Fetched {
        self.spool.fetch(u64::MAX, max_events, max_bytes);
        self.until(|spool| spool.updates().fetched)
    }

    /// Fetches and removes all events that are on disk, and returns their numbers.
    fn drain(&self) -> Vec<u64> {
        let mut numbers = Vec::new();
        loop {
            match self.fetch(100, 10_000) {
                Fetched::Events(page) => {
                    assert_eq!(self.spool.remove(page.numbers()), page.lens.len() as u64);
                    numbers.extend(checked(&page));
                }
                Fetched::Lost(range) => panic!("lost {range:?}"),
                Fetched::Failed(reason) => panic!("{reason}"),
                Fetched::Nothing => return numbers,
            }
        }
    }

    fn close(self) {
        assert!(self.spool.close(LONG));
    }
}

/// Returns an event. Lengths vary, so that no two records look alike.
fn event(number: u64) -> String {
    let filler = "x".repeat((number * 37 % 300) as usize);
    format!(r#"{{"n":{number},"f":"{filler}"}}"#)
}

/// Returns a page's numbers, and checks that its bytes are those of these events.
fn checked(page: &Page) -> Vec<u64> {
    let numbers: Vec<u64> = page.numbers().collect();
    let expected: String = numbers.iter().map(|n| event(*n) + ",").collect();
    assert_eq!(String::from_utf8_lossy(&page.bytes), expected);
    let lens: Vec<u32> = numbers.iter().map(|n| event(*n).len() as u32 + 1).collect();
    assert_eq!(page.lens, lens);
    numbers
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "spool"))
        .collect();
    paths.sort();
    paths
}

fn size(dir: &Path) -> u64 {
    let len = |path: &PathBuf| fs::metadata(path).unwrap().len();
    segments(dir).iter().map(len).sum()
}

#[test]
fn events_that_were_not_removed_are_recovered_in_order_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let first = open(dir.path());
    assert_eq!(first.recovered, Recovered::default());
    first.append(0..5_000);
    assert_eq!(first.spool.remove(0..1_200), 1_200);
    first.close();
    let second = open(dir.path());
    let expected = Recovered {
        next: 5_000,
        events: 3_800,
    };
    assert_eq!(second.recovered, expected);
    second.append(5_000..5_100);
    second.sync();
    assert_eq!(second.drain(), (1_200..5_100).collect::<Vec<_>>());
    second.sync();
    assert_eq!(segments(dir.path()), [] as [PathBuf; 0]);
    second.close();
    assert_eq!(open(dir.path()).recovered.events, 0);
}

#[test]
fn an_event_is_on_disk_soon_without_a_call_to_sync() {
    let dir = TempDir::new().unwrap();
    let spooling = open(dir.path());
    for n in 0..20 {
        let since = Instant::now();
        spooling.append(n..n + 1);
        while !spooling.stored(n..n + 1) {
            assert!(since.elapsed() < Duration::from_secs(60), "event {n}");
            std::thread::yield_now();
        }
    }
}

#[test]
fn an_event_that_is_removed_at_once_is_never_written() {
    let dir = TempDir::new().unwrap();
    let spooling = open(dir.path());
    spooling.append(0..10);
    assert_eq!(spooling.spool.remove(0..10), 10);
    spooling.sync();
    assert_eq!(segments(dir.path()), [] as [PathBuf; 0]);
    // Next to an event that stays, only that one is written.
    spooling.append(10..20);
    spooling.spool.remove(10..19);
    spooling.sync();
    assert!(size(dir.path()) < 600);
    spooling.close();
    assert_eq!(open(dir.path()).drain(), [19]);
}

#[test]
fn single_events_can_be_removed_from_the_middle_whether_written_or_not() {
    let dir = TempDir::new().unwrap();
    let spooling = open(dir.path());
    spooling.append(0..100);
    assert_eq!(spooling.spool.remove(50..51), 1);
    spooling.sync();
    assert_eq!(spooling.spool.remove(10..12), 2);
    assert_eq!(spooling.spool.remove(10..12), 0);
    assert_eq!(spooling.spool.live(0..60), 57);
    spooling.close();
    let again = open(dir.path());
    assert_eq!(again.recovered.events, 97);
    let left = (0..100).filter(|n| ![10, 11, 50].contains(n));
    assert_eq!(again.drain(), left.collect::<Vec<_>>());
}

#[test]
fn a_fetch_keeps_to_its_limits_but_returns_a_single_event_that_is_larger() {
    let dir = TempDir::new().unwrap();
    let spooling = open(dir.path());
    let large = vec![b'x'; 300_000];
    spooling.spool.append(0, &large);
    spooling.append(1..50);
    spooling.sync();
    let Fetched::Events(page) = spooling.fetch(10, 1_000) else {
        panic!("nothing")
    };
    assert_eq!((page.numbers(), page.bytes.len()), (0..1, 300_001));
    spooling.spool.remove(0..1);
    let Fetched::Events(page) = spooling.fetch(10, usize::MAX) else {
        panic!("nothing")
    };
    assert_eq!(page.numbers(), 1..11);
    spooling.spool.fetch(1, 10, usize::MAX);
    assert_eq!(
        spooling.until(|spool| spool.updates().fetched),
        Fetched::Nothing
    );
}

#[test]
fn removing_all_empties_the_disk_and_the_spool_goes_on() {
    let dir = TempDir::new().unwrap();
    let spooling = open(dir.path());
    spooling.append(0..3_000);
    spooling.sync();
    assert!(size(dir.path()) > 100_000);
    assert_eq!(spooling.spool.remove(ALL), 3_000);
    spooling.sync();
    assert_eq!(size(dir.path()), 0);
    spooling.append(3_000..3_010);
    spooling.close();
    assert_eq!(open(dir.path()).drain(), (3_000..3_010).collect::<Vec<_>>());
}

#[test]
fn the_directory_and_its_files_are_for_their_owner_alone() {
    let dir = TempDir::new().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let path = dir.path().join("a/spool");
    let spooling = open(&path);
    spooling.append(0..1);
    spooling.sync();
    assert_eq!((mode(&path), mode(&path.join("lock"))), (0o700, 0o600));
    assert_eq!(mode(&segments(&path)[0]), 0o600);
    spooling.close();
    // The permissions of a directory with other files are the app's decision.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    open(&path).close();
    assert_eq!(mode(&path), 0o700);
    fs::write(path.join("else"), "").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(
        try_open(&options(&path)).err(),
        Some(OpenError::Exposed(_))
    ));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    open(&path).close();
    assert_eq!(mode(&path), 0o755);
}

#[test]
fn a_directory_locked_by_another_process_is_waited_for_but_not_for_long() {
    let dir = TempDir::new().unwrap();
    open(dir.path()).close();
    // The lock belongs to the open file, so this works like another process.
    let lock = fs::File::open(dir.path().join("lock")).unwrap();
    lock.lock().unwrap();
    let error = try_open(&options(dir.path())).err().unwrap();
    assert!(matches!(error, OpenError::Held(_)), "{error}");
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(lock);
        });
        open(dir.path()).close();
    });
}

#[test]
fn a_client_that_is_asked_for_its_directory_hands_it_over_with_all_events() {
    let dir = TempDir::new().unwrap();
    let first = open(dir.path());
    first.append(0..100);
    let second = std::thread::scope(|scope| {
        let link = dir.path().join(".");
        let second = scope.spawn(move || open(&link));
        first.until(|spool| spool.updates().wanted.then_some(()));
        drop(first);
        second.join().unwrap()
    });
    assert_eq!(second.recovered.events, 100);
    let since = Instant::now();
    let impatient = Options {
        patience: Duration::from_millis(100),
        ..options(dir.path())
    };
    let error = try_open(&impatient).err().unwrap();
    assert!(matches!(error, OpenError::InUse(_)), "{error}");
    assert!(since.elapsed() >= Duration::from_millis(90));
}

#[test]
fn beyond_max_bytes_the_oldest_events_are_proposed_and_their_files_deleted() {
    let dir = TempDir::new().unwrap();
    let max_bytes = 400_000;
    let small = Options {
        max_bytes,
        ..options(dir.path())
    };
    let spooling = try_open(&small).unwrap();
    let mut dropped = 0;
    for n in 0..10_000 {
        spooling.append(n..n + 1);
        if n % 100 == 99 {
            spooling.sync();
            while let Some(excess) = spooling.spool.excess() {
                let Excess::Full(below) = excess else {
                    panic!("{excess:?}")
                };
                dropped += spooling.spool.remove(0..below);
                spooling.sync();
            }
            assert!(size(dir.path()) <= max_bytes);
        }
    }
    let left = spooling.spool.live(ALL);
    assert_eq!(dropped + left, 10_000);
    assert!(size(dir.path()) > max_bytes / 2, "not more than need be");
    spooling.close();
    assert_eq!(
        open(dir.path()).drain(),
        (dropped..10_000).collect::<Vec<_>>()
    );
}

#[test]
fn events_that_are_too_old_are_proposed_without_a_call_also_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let max_age = Duration::from_secs(2);
    let short = Options {
        max_age,
        ..options(dir.path())
    };
    let spooling = try_open(&short).unwrap();
    let captured = Instant::now();
    spooling.append(0..10);
    spooling.sync();
    spooling.close();
    let again = try_open(&short).unwrap();
    assert_eq!(again.recovered.events, 10);
    std::thread::sleep(max_age / 2);
    again.append(10..11);
    again.sync();
    let excess = again.until(Spool::excess);
    assert_eq!(excess, Excess::Expired(10));
    assert!(captured.elapsed() >= max_age - Duration::from_millis(20));
    assert_eq!(again.spool.remove(0..10), 10);
    assert_eq!(again.until(Spool::excess), Excess::Expired(11));
}

#[test]
fn an_idle_spool_does_not_wake() {
    let dir = TempDir::new().unwrap();
    let spooling = open(dir.path());
    spooling.append(0..10);
    spooling.sync();
    spooling.spool.remove(0..5);
    spooling.sync();
    std::thread::sleep(Duration::from_millis(200));
    let Some(before) = switches() else {
        return eprintln!("skipped: no /proc here");
    };
    std::thread::sleep(Duration::from_millis(500));
    // Other tests run at the same time, so only the quietest thread is certainly idle.
    let after = switches().unwrap();
    let quiet = before
        .iter()
        .any(|(id, count)| after.get(id) == Some(count));
    assert!(quiet, "{before:?} {after:?}");
}

/// Returns how often each spool thread of this process has slept.
fn switches() -> Option<BTreeMap<PathBuf, String>> {
    let mut all = BTreeMap::new();
    for task in fs::read_dir("/proc/self/task").ok()?.flatten() {
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
        let count = status.lines().find(|l| l.starts_with("voluntary"));
        if let (true, Some(count)) = (name.starts_with("billdogeng-spo"), count) {
            all.insert(task.path(), count.to_owned());
        }
    }
    Some(all)
}

/// Opens a directory without a thread, and returns the live events and how many problems were reported.
fn recovered(dir: &Path) -> (Vec<u64>, usize) {
    let ticket = Ticket::take(dir);
    let dir = Dir::hold(dir, Arc::new(|| ()), LONG, ticket).unwrap();
    let found = recover::recover(dir, BOUNDS).unwrap();
    let limits = Limits {
        max_events: 64,
        max_bytes: usize::MAX,
    };
    let mut numbers = Vec::new();
    for run in found.live.runs(&ALL) {
        let mut at = run.start;
        while at < run.end {
            let page = found.log.read(at..run.end, limits).unwrap();
            numbers.extend(checked(&page));
            at = page.next();
        }
    }
    (numbers, found.problems.len())
}

/// Returns a copy of a directory's files, as a crash would leave them.
fn copied(dir: &Path) -> TempDir {
    let copy = TempDir::new().unwrap();
    for path in segments(dir).into_iter().chain([dir.join(files::LEDGER)]) {
        if path.exists() {
            fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    copy
}

/// A directory with a segment of 12 events in 3 records, of which events 0, 1 and 5 are removed.
struct Sample {
    dir: TempDir,
    path: PathBuf,
    bytes: Vec<u8>,
    ledger: Vec<u8>,
}

impl Sample {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let spooling = open(dir.path());
        for numbers in [0..3, 3..8, 8..12] {
            spooling.append(numbers);
            spooling.sync();
        }
        for numbers in [0..2, 5..6] {
            spooling.spool.remove(numbers);
        }
        spooling.close();
        let path = segments(dir.path()).remove(0);
        Self {
            bytes: fs::read(&path).unwrap(),
            ledger: fs::read(dir.path().join(files::LEDGER)).unwrap(),
            path,
            dir,
        }
    }

    /// Returns what is recovered with the segment replaced, and checks that it is reported only once.
    fn with(&self, bytes: &[u8]) -> (Vec<u64>, usize) {
        fs::write(&self.path, bytes).unwrap();
        fs::write(self.dir.path().join(files::LEDGER), &self.ledger).unwrap();
        let (numbers, reported) = recovered(self.dir.path());
        assert_eq!(recovered(self.dir.path()), (numbers.clone(), 0));
        (numbers, reported)
    }

    /// Returns where each record is, and where its payload begins.
    fn records(&self) -> Vec<(Range<u64>, u64)> {
        let file = fs::File::open(&self.path).unwrap();
        let (start, size) = (segment::SEGMENT_HEADER, self.bytes.len() as u64);
        let mut records = segment::Records::new(&file, 0, start, size).unwrap();
        let records = std::iter::from_fn(|| records.header().unwrap());
        let place = |record: segment::Record| (record.place.clone(), record.place.start + 36);
        records.map(place).collect()
    }
}

/// The live events of the sample's records.
const RECORDS: [&[u64]; 3] = [&[2], &[3, 4, 6, 7], &[8, 9, 10, 11]];

#[test]
fn a_segment_that_is_cut_off_at_any_byte_keeps_the_records_before_and_reports_it_once() {
    let sample = Sample::new();
    let mut seen = Vec::new();
    for len in 0..=sample.bytes.len() {
        let (numbers, reported) = sample.with(&sample.bytes[..len]);
        assert!(reported <= 1);
        if seen.last() != Some(&numbers) {
            seen.push(numbers);
        }
    }
    let stages = (0..=3).map(|records| RECORDS[..records].concat());
    assert_eq!(seen, stages.collect::<Vec<_>>());
}

#[test]
fn a_corrupted_payload_loses_its_record_and_a_corrupted_header_the_rest_of_its_segment() {
    let sample = Sample::new();
    let records = sample.records();
    assert_eq!(records.len(), RECORDS.len());
    for at in 0..sample.bytes.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut bytes = sample.bytes.clone();
            bytes[at] ^= change;
            let record = records
                .iter()
                .position(|(place, _)| place.contains(&(at as u64)));
            let (expected, lines) = match record {
                None => (vec![], 1),
                Some(n) if (at as u64) < records[n].1 => (RECORDS[..n].concat(), 1),
                Some(n) => ([&RECORDS[..n], &RECORDS[n + 1..]].concat().concat(), 2),
            };
            assert_eq!(sample.with(&bytes), (expected, lines), "{at}");
        }
    }
}

/// Any corruption: only events of the corrupted segment are lost, no false or unordered events come back,
/// and a loss is reported once.
#[test]
fn random_damage_loses_events_of_its_segment_only() {
    let source = TempDir::new().unwrap();
    let small = Options {
        max_bytes: 16 * 16 * 1024,
        ..options(source.path())
    };
    let spooling = try_open(&small).unwrap();
    let mut ends = Vec::new();
    for n in 0..60 {
        spooling.append(n * 10..n * 10 + 10);
        spooling.sync();
        let files = segments(source.path()).len();
        ends.resize(files, 0);
        ends[files - 1] = n * 10 + 10;
    }
    spooling.spool.remove(0..25);
    spooling.spool.remove(300..310);
    spooling.close();
    let whole: BTreeSet<u64> = (25..600).filter(|n| !(300..310).contains(n)).collect();
    assert!(ends.len() > 4);
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let dir = copied(source.path());
        let copies = segments(dir.path());
        let file = random.usize(..copies.len());
        let mut bytes = fs::read(&copies[file]).unwrap();
        let at = random.usize(..bytes.len());
        let len = random.usize(..3_000).min(bytes.len() - at);
        let mut garbage = || (0..len).map(|_| random.u8(..)).collect::<Vec<_>>();
        match seed % 8 {
            0 => bytes[at] ^= 1 << (seed % 7),
            1 => bytes.truncate(at),
            2 => bytes[at..at + len].fill(0),
            3 => drop(bytes.splice(at..at, garbage())),
            4 if seed % 16 < 8 => bytes.extend(vec![0; len]),
            4 => bytes.extend(garbage()),
            5 => bytes = garbage(),
            6 => drop(bytes.splice(at..at + len, [])),
            _ => bytes.clear(),
        }
        fs::write(&copies[file], &bytes).unwrap();
        let (numbers, reported) = recovered(dir.path());
        assert!(numbers.is_sorted_by(|a, b| a < b), "seed {seed}");
        let numbers: BTreeSet<u64> = numbers.into_iter().collect();
        let lost: Vec<u64> = whole.difference(&numbers).copied().collect();
        assert!(lost.is_empty() || reported > 0, "seed {seed}: {lost:?}");
        assert!(lost.is_empty() || seed % 8 != 4, "seed {seed}: {lost:?}");
        let first = if file == 0 { 0 } else { ends[file - 1] };
        let of_file = |n: &u64| (first..ends[file]).contains(n);
        assert!(lost.iter().all(of_file), "seed {seed}: {lost:?}");
        let again = recovered(dir.path());
        assert_eq!(again, (numbers.into_iter().collect(), 0), "seed {seed}");
    }
}

#[test]
fn a_segment_that_was_emptied_or_deleted_is_reported_with_the_number_of_its_events() {
    for deleted in [true, false] {
        let Sample { dir, path, .. } = Sample::new();
        for numbers in [12..20, 20..30] {
            let spooling = open(dir.path());
            spooling.append(numbers);
            spooling.close();
        }
        let middle = &segments(dir.path())[1];
        match deleted {
            true => fs::remove_file(middle).unwrap(),
            false => fs::write(middle, "").unwrap(),
        }
        let spooling = open(dir.path());
        let problems = spooling.spool.updates().problems;
        assert_eq!(problems.last(), Some(&Problem::Missing(8)), "{problems:?}");
        assert_eq!(spooling.recovered.events, 9 + 10);
        spooling.close();
        let spooling = open(dir.path());
        assert_eq!(spooling.spool.updates().problems, []);
        spooling.close();
        // An empty first segment is noticed, a deleted one is not.
        fs::write(&path, "").unwrap();
        let spooling = open(dir.path());
        let problems = spooling.spool.updates().problems;
        assert_eq!(problems, [Problem::Corrupted(path, 0)]);
        assert_eq!(spooling.drain(), (20..30).collect::<Vec<_>>());
    }
}

#[test]
fn without_its_ledger_a_spool_sends_removed_events_again_and_reports_that_once() {
    let Sample { dir, ledger, .. } = Sample::new();
    let path = dir.path().join(files::LEDGER);
    for bytes in [None, Some(vec![0; ledger.len()])] {
        match bytes {
            None => fs::remove_file(&path).unwrap(),
            Some(bytes) => fs::write(&path, bytes).unwrap(),
        }
        let copy = copied(dir.path());
        assert_eq!(recovered(dir.path()), ((0..12).collect(), 1));
        // Nor is it known whether the times can be trusted.
        let held = Dir::hold(
            copy.path(),
            Arc::new(|| ()),
            LONG,
            Ticket::take(copy.path()),
        );
        let found = recover::recover(held.unwrap(), BOUNDS).unwrap();
        assert!(found.log.entry.in_doubt);
        assert_eq!(recovered(dir.path()), ((0..12).collect(), 0));
    }
}

#[test]
fn a_removal_from_the_middle_is_in_the_ledger_as_soon_as_it_is_synced() {
    let dir = TempDir::new().unwrap();
    let spooling = open(dir.path());
    spooling.append(0..100);
    spooling.sync();
    for n in (1..40).step_by(2) {
        spooling.spool.remove(n..n + 1);
        spooling.sync();
        let left = (0..100).filter(|m| *m > n || m % 2 == 0);
        let copy = copied(dir.path());
        assert_eq!(recovered(copy.path()), (left.collect(), 0));
    }
}

#[test]
fn damage_while_running_is_reported_as_lost_events_and_the_others_are_read() {
    // The payload of the last record, and the header of the second.
    for (record, from_end, left) in [(2, true, 2), (1, false, 1)] {
        let sample = Sample::new();
        let spooling = open(sample.dir.path());
        spooling.append(12..20);
        spooling.sync();
        let place = sample.records()[record].0.clone();
        let mut bytes = sample.bytes;
        let at = if from_end {
            place.end - 3
        } else {
            place.start + 9
        };
        bytes[at as usize] ^= 1;
        fs::write(&sample.path, &bytes).unwrap();
        let mut read = Vec::new();
        let mut lost = 0;
        loop {
            match spooling.fetch(100, usize::MAX) {
                Fetched::Events(page) => {
                    spooling.spool.remove(page.numbers());
                    read.extend(checked(&page));
                }
                Fetched::Lost(range) => lost += spooling.spool.remove(range),
                Fetched::Failed(reason) => panic!("{reason}"),
                Fetched::Nothing => break,
            }
        }
        let whole = RECORDS[..left].concat();
        assert_eq!(lost, 9 - whole.len() as u64);
        let expected: Vec<u64> = whole.into_iter().chain(12..20).collect();
        assert_eq!(read, expected);
    }
}

#[test]
fn files_of_another_version_and_all_beside_them_are_left_alone() {
    for (version, age) in [(1, "an older"), (3, "a newer")] {
        let Sample {
            dir, path, bytes, ..
        } = Sample::new();
        let again = open(dir.path());
        again.append(12..20);
        again.close();
        let second = segments(dir.path()).remove(1);
        let mut other = fs::read(&second).unwrap();
        other[..40].copy_from_slice(&segment::opening_of(version, 1, 12));
        fs::write(&second, &other).unwrap();
        // The first file is corrupted. It must not be repaired before all files can be read.
        let corrupted = [&bytes[..bytes.len() - 1], &bytes[1..]];
        for bytes in corrupted {
            fs::write(&path, bytes).unwrap();
            let error = try_open(&options(dir.path())).err().unwrap();
            assert_eq!(error, OpenError::Version(second.clone(), version));
            let text = format!("by {age} release (format {version}, this one has 2)");
            assert!(error.to_string().contains(&text), "{error}");
            assert_eq!(fs::read(&path).unwrap(), bytes);
            assert_eq!(fs::read(&second).unwrap(), other);
        }
    }
}

#[test]
fn segments_behind_live_ones_are_deleted_once_all_their_events_are_removed() {
    let dir = TempDir::new().unwrap();
    let small = Options {
        max_bytes: 16 * 16 * 1024,
        ..options(dir.path())
    };
    let spooling = try_open(&small).unwrap();
    for n in 0..60 {
        spooling.append(n * 10..n * 10 + 10);
        spooling.sync();
    }
    assert!(segments(dir.path()).len() > 4);
    spooling.spool.remove(5..595);
    spooling.sync();
    assert_eq!(segments(dir.path()).len(), 2);
    let left = (0..5).chain(595..600).collect::<Vec<_>>();
    assert_eq!(recovered(copied(dir.path()).path()), (left, 0));
}

/// Random appends, removals, syncs and restarts, with copies of the files in place of crashes.
#[test]
fn random_histories_are_recovered_like_a_plain_list() {
    for seed in 0..30 {
        let mut random = fastrand::Rng::with_seed(seed);
        let dir = TempDir::new().unwrap();
        let tiny = Options {
            max_bytes: 1 << 30,
            ..options(dir.path())
        };
        let mut spooling = try_open(&tiny).unwrap();
        let mut model: Vec<u64> = Vec::new();
        let mut next = 0;
        for _ in 0..120 {
            match random.u8(..20) {
                0..=8 => {
                    let end = next + random.u64(1..120);
                    spooling.append(next..end);
                    model.extend(next..end);
                    next = end;
                }
                9..=12 => {
                    let end = model.get(random.usize(..60)).copied().unwrap_or(next);
                    let before = model.len();
                    model.retain(|n| *n >= end);
                    let ended = spooling.spool.remove(0..end);
                    assert_eq!(ended, (before - model.len()) as u64, "seed {seed}");
                }
                13 if !model.is_empty() => {
                    let n = model.remove(random.usize(..model.len()));
                    assert_eq!(spooling.spool.remove(n..n + 1), 1, "seed {seed}");
                }
                14..=16 => spooling.sync(),
                17 => std::thread::sleep(Duration::from_millis(random.u64(..30))),
                18 => {
                    spooling.sync();
                    let copy = copied(dir.path());
                    assert_eq!(recovered(copy.path()), (model.clone(), 0), "seed {seed}");
                }
                _ => {
                    spooling.close();
                    spooling = try_open(&tiny).unwrap();
                    assert_eq!(spooling.recovered.events, model.len() as u64, "seed {seed}");
                    next = next.max(spooling.recovered.next);
                }
            }
        }
        spooling.sync();
        assert_eq!(spooling.drain(), model, "seed {seed}");
    }
}

#[test]
fn a_removed_directory_is_reported_once_and_the_spool_goes_on_in_memory() {
    let parent = TempDir::new().unwrap();
    let dir = parent.path().join("spool");
    let spooling = open(&dir);
    spooling.append(0..10);
    spooling.sync();
    fs::remove_dir_all(&dir).unwrap();
    spooling.append(10..20);
    spooling.sync();
    let problem = spooling.problem();
    assert!(matches!(problem, Problem::Failed(_)), "{problem}");
    assert!(!spooling.stored(10..20));
    // Another directory in its place is not the one that is held.
    fs::create_dir(&dir).unwrap();
    std::thread::sleep(Duration::from_millis(1_100));
    spooling.append(20..30);
    spooling.sync();
    assert_eq!(segments(&dir), [] as [PathBuf; 0]);
    assert_eq!(spooling.spool.remove(ALL), 30);
    spooling.sync();
    assert_eq!(spooling.spool.updates().problems, []);
    spooling.close();
}

#[test]
fn events_whose_directory_was_removed_count_as_in_memory() {
    let parent = TempDir::new().unwrap();
    let dir = parent.path().join("spool");
    // Seen with the next write, or at the end.
    for written in [true, false] {
        let spooling = open(&dir);
        spooling.append(0..10);
        spooling.sync();
        assert!(spooling.stored(0..10));
        fs::remove_dir_all(&dir).unwrap();
        if written {
            spooling.append(10..20);
            spooling.sync();
            assert_eq!(spooling.spool.whereabouts(0), Whereabouts::Memory);
            assert_eq!(spooling.in_memory(), (0..20).collect::<Vec<_>>());
        }
        assert!(spooling.spool.close(LONG));
        let all = 0..if written { 20 } else { 10 };
        assert_eq!(spooling.in_memory(), all.collect::<Vec<_>>());
        drop(spooling);
        assert_eq!(open(&dir).recovered.events, 0);
        fs::remove_dir_all(&dir).unwrap();
    }
}

#[test]
fn only_events_of_files_that_are_gone_or_cut_off_count_as_in_memory() {
    let dir = TempDir::new().unwrap();
    for numbers in [0..10, 10..20, 20..30, 30..40] {
        let spooling = open(dir.path());
        spooling.append(numbers);
        spooling.close();
    }
    let spooling = open(dir.path());
    spooling.append(40..50);
    spooling.sync();
    let files = segments(dir.path());
    fs::remove_file(&files[1]).unwrap();
    fs::File::create(&files[2]).unwrap();
    assert!(spooling.spool.close(LONG));
    assert_eq!(spooling.in_memory(), (10..30).collect::<Vec<_>>());
    drop(spooling);
    let left = (0..10).chain(30..50).collect::<Vec<_>>();
    assert_eq!(open(dir.path()).drain(), left);
}

#[test]
fn a_link_with_a_files_name_is_not_followed() {
    let dir = TempDir::new().unwrap();
    let victim = dir.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    let spool = dir.path().join("spool");
    fs::create_dir(&spool).unwrap();
    let planted = spool.join("00000000000000ff.spool");
    symlink(&victim, &planted).unwrap();
    let spooling = open(&spool);
    assert_eq!(spooling.problem(), Problem::Skipped(planted));
    spooling.append(0..10);
    spooling.close();
    fs::remove_file(spool.join("lock")).unwrap();
    symlink(&victim, spool.join("lock")).unwrap();
    let error = try_open(&options(&spool)).err().unwrap();
    assert!(
        error.to_string().ends_with("it is not a regular file"),
        "{error}"
    );
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
    // The directory itself may be a link.
    fs::remove_file(spool.join("lock")).unwrap();
    symlink(&spool, dir.path().join("link")).unwrap();
    assert_eq!(open(&dir.path().join("link")).recovered.events, 10);
}

#[test]
fn directories_links_pipes_and_sockets_with_a_files_name_are_left_alone_and_block_nothing() {
    let dir = TempDir::new().unwrap();
    let name = |id: u64| dir.path().join(format!("{id:016x}.spool"));
    fs::create_dir(name(1)).unwrap();
    symlink("nowhere", name(2)).unwrap();
    assert!(pipe(&name(3)));
    let _socket = UnixListener::bind(name(4)).unwrap();
    // Other spellings are no names of segments.
    fs::write(dir.path().join("00000000000000FF.spool"), "other").unwrap();
    fs::write(name(u64::MAX), "other").unwrap();
    let spooling = open(dir.path());
    let mut problems = spooling.spool.updates().problems;
    problems.sort_by_key(|problem| format!("{problem:?}"));
    assert_eq!(problems, [1, 2, 3, 4].map(|id| Problem::Skipped(name(id))));
    spooling.append(0..10);
    spooling.sync();
    assert!(spooling.stored(0..10));
    spooling.close();
    let lock = dir.path().join("lock");
    fs::remove_file(&lock).unwrap();
    assert!(pipe(&lock));
    let error = try_open(&options(dir.path())).err().unwrap();
    let expected = format!("can't lock {}: it is not a regular file", lock.display());
    assert_eq!(error.to_string(), expected);
}

fn pipe(path: &Path) -> bool {
    let made = std::process::Command::new("mkfifo").arg(path).status();
    made.is_ok_and(|status| status.success())
}

#[test]
fn a_directory_of_another_user_is_refused() {
    let dir = TempDir::new().unwrap();
    let me = fs::metadata(dir.path()).unwrap().uid();
    assert_eq!(platform::user().unwrap(), me);
    if std::os::unix::fs::chown(dir.path(), Some(65_534), None).is_err() {
        return eprintln!("skipped: can't give a directory away (not root?)");
    }
    let error = try_open(&options(dir.path())).err().unwrap();
    assert_eq!(error, OpenError::Foreign(dir.path().into(), 65_534, me));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_directory_that_can_not_be_made_is_an_error() {
    let parent = TempDir::new().unwrap();
    fs::write(parent.path().join("file"), "").unwrap();
    for name in ["file", "file/spool"] {
        let error = try_open(&options(&parent.path().join(name))).err().unwrap();
        assert!(matches!(error, OpenError::Io("make", ..)), "{error}");
    }
}

/// A small file system for one test. Needs root.
struct Mount(TempDir);

impl Mount {
    fn new(options: &str) -> Option<Self> {
        let dir = TempDir::new().unwrap();
        let mut mount = std::process::Command::new("mount");
        let mount = mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]);
        let mounted = mount.arg(dir.path()).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self(dir));
        }
        eprintln!("skipped: can't mount a file system (not root?)");
        None
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let mut unmount = std::process::Command::new("umount");
        let _ = unmount.arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_reported_once_and_used_again_when_there_is_room() {
    let Some(mount) = Mount::new("size=256k,mode=700") else {
        return;
    };
    let dir = mount.0.path();
    let spooling = open(dir);
    let mut next = 0;
    let problem = loop {
        // Several records, so that some are written before one fails.
        spooling.append(next..next + 1_000);
        next += 1_000;
        spooling.sync();
        if let Some(problem) = spooling.spool.updates().problems.pop() {
            break problem;
        }
        assert!(next < 10_000);
    };
    assert!(matches!(&problem, Problem::Failed(reason) if reason.contains("space")));
    assert!(!spooling.stored(0..next));
    // The records before the failure are on disk.
    assert!(size(dir) > 150_000);
    let memory = spooling.in_memory();
    assert_eq!(memory, (memory[0]..next).collect::<Vec<_>>());
    assert!(spooling.stored(0..memory[0]));
    assert_eq!(
        recovered(copied(dir).path()).0,
        (0..memory[0]).collect::<Vec<_>>()
    );
    spooling.append(next..next + 100);
    next += 100;
    spooling.sync();
    assert_eq!(spooling.spool.updates().problems, []);
    assert_eq!(spooling.spool.remove(ALL), next);
    spooling.sync();
    assert_eq!(size(dir), 0);
    std::thread::sleep(Duration::from_millis(1_100));
    spooling.append(next..next + 10);
    spooling.sync();
    assert_eq!(spooling.problem(), Problem::Resumed);
    assert!(spooling.stored(next..next + 10));
    spooling.close();
    assert_eq!(open(dir).drain(), (next..next + 10).collect::<Vec<_>>());
}

#[test]
fn removals_on_a_full_disk_are_recorded_when_there_is_room() {
    let Some(mount) = Mount::new("size=256k,mode=700") else {
        return;
    };
    let dir = mount.0.path();
    let spooling = open(dir);
    spooling.append(0..100);
    spooling.sync();
    fs::write(dir.join("ballast"), vec![0; 256 * 1024]).unwrap_err();
    spooling.append(100..200);
    spooling.sync();
    assert!(matches!(spooling.problem(), Problem::Failed(_)));
    assert_eq!(spooling.spool.remove(0..40), 40);
    spooling.sync();
    fs::remove_file(dir.join("ballast")).unwrap();
    spooling.close();
    assert_eq!(open(dir).drain(), (40..100).collect::<Vec<_>>());
}

#[test]
fn on_a_disk_that_stays_full_removed_events_do_not_come_back() {
    let Some(mount) = Mount::new("size=256k,mode=700") else {
        return;
    };
    let dir = mount.0.path();
    let spooling = open(dir);
    spooling.append(0..200);
    spooling.sync();
    fs::write(dir.join("ballast"), vec![0; 256 * 1024]).unwrap_err();
    // There may be room in the last block.
    spooling.append(200..300);
    spooling.sync();
    assert!(matches!(spooling.problem(), Problem::Failed(_)));
    let written = spooling.in_memory()[0];
    for below in [40, 90, 130] {
        spooling.spool.remove(0..below);
        spooling.sync();
        assert_eq!(
            recovered(copied(dir).path()).0,
            (below..written).collect::<Vec<_>>()
        );
    }
    spooling.spool.remove(135..140);
    spooling.close();
    assert_eq!(
        open(dir).drain(),
        (130..135).chain(140..written).collect::<Vec<_>>()
    );
}

#[test]
fn a_read_only_file_system_is_an_error() {
    let Some(mount) = Mount::new("ro,mode=700") else {
        return;
    };
    let error = try_open(&options(mount.0.path())).err().unwrap();
    assert!(matches!(error, OpenError::Io("lock", ..)), "{error}");
}
