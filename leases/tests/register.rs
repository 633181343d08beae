//! The register of a volume at a real API server: swapped by one of several, lost when somebody meddles, in doubt when the
//! server does not answer.

mod setup;

use anyhow::{Context, Result, bail, ensure};
use kube::api::{DeleteParams, PostParams};
use lockstep_core::{
    Arbiter, Class, Config, Epoch, Generation, Incarnation, NodeId, RegisterAnswer, Settings, VolumeId,
};
use lockstep_leases::{CreateRegister, Kind, Leases, Place, REQUEST_LIMIT, Verb, names};
use setup::Setup;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

impl Setup {
    fn read(&self, leases: &Leases, volume: VolumeId) -> RegisterAnswer {
        self.run(leases.read_register(volume))
    }

    /// Version and configuration, which must be there.
    fn found(&self, leases: &Leases, volume: VolumeId) -> Result<(u64, Config)> {
        match self.read(leases, volume) {
            RegisterAnswer::Found { version, config } => Ok((version, *config)),
            other => anyhow::bail!("{other:?}, trouble {:?}", leases.trouble(volume)),
        }
    }
}

/// A volume's first configuration: two replicas, in sync.
fn first(number: u8) -> Config {
    let in_sync = [(NodeId(1), Incarnation(11)), (NodeId(2), Incarnation(22))];
    Config {
        volume: VolumeId([number; 16]),
        generation: Generation { id: 7, parent: 0 },
        epoch: Epoch(1),
        size_blocks: 1024,
        settings: Settings { arbiter: Arbiter::Lease, ..Settings::default() },
        priority: Class::default(),
        replicas: in_sync.iter().map(|(node, _)| *node).collect(),
        tie_breaker: None,
        voters: Default::default(),
        in_sync: in_sync.into(),
        joining: Default::default(),
        attached: Default::default(),
        last_in_sync: Default::default(),
        added: Default::default(),
        requests: Default::default(),
    }
}

/// What could follow it: without a node.
fn without(config: &Config, node: u32) -> Config {
    let mut next = Config { epoch: Epoch(config.epoch.0 + 1), ..config.clone() };
    next.in_sync.remove(&NodeId(node));
    next.last_in_sync.insert(NodeId(node), config.epoch);
    next
}

fn lost(answer: RegisterAnswer, says: &str) -> Result<()> {
    match answer {
        RegisterAnswer::Lost { reason } if reason.contains(says) && reason.contains("lockstep/lockstep-") => Ok(()),
        other => bail!("not lost by {says:?}: {other:?}"),
    }
}

#[test]
fn register_is_made_read_swapped_and_deleted() -> Result<()> {
    let setup = Setup::start()?;
    let (leases, config) = (setup.leases("a"), first(1));
    setup.run(leases.create_register(&config))?;
    let (version, found) = setup.found(&leases, config.volume)?;
    ensure!(found == config, "{found:?}");
    // A creation that is repeated, by another process.
    setup.run(setup.leases("b").create_register(&config)).context("repeated")?;
    let other = Config { size_blocks: 2048, ..config.clone() };
    let refused = setup.run(leases.create_register(&other));
    ensure!(matches!(refused, Err(CreateRegister::Exists(_))), "{refused:?}");

    let next = without(&config, 2);
    let swapped = setup.run(leases.swap_register(version, &next));
    ensure!(swapped == RegisterAnswer::Swapped, "{swapped:?}");
    let (second_version, found) = setup.found(&leases, config.volume)?;
    ensure!(found == next && second_version > version, "{found:?} at {second_version}");

    let object = setup.run(setup.objects()?.get(&names::register_name(config.volume)))?;
    let spec = object.spec.context("a spec")?;
    ensure!(spec.lease_transitions == Some(2) && spec.holder_identity.as_deref() == Some("a"), "{spec:?}");
    let annotations = object.metadata.annotations.context("annotations")?;
    ensure!(annotations[names::EPOCH_ANNOTATION] == "2" && annotations[names::IN_SYNC_ANNOTATION] == "1");
    ensure!(annotations[names::MEMBERS_ANNOTATION] == "1,2", "a replica that is not in sync is a member still");
    ensure!(object.metadata.labels.context("labels")?[names::VOLUME_LABEL] == "01".repeat(16));

    let more = first(2);
    setup.run(leases.create_register(&more))?;
    setup.run(leases.delete_all(config.volume))?;
    setup.run(leases.delete_all(config.volume)).context("repeated")?;
    ensure!(setup.count()? == 1, "only the other volume's is left");
    lost(setup.read(&leases, config.volume), "it does not exist")?;
    ensure!(leases.requests().sent(Verb::Update, Kind::Configuration) == 3, "two creations, one swap");
    Ok(())
}

#[test]
fn swap_never_makes_what_was_deleted() -> Result<()> {
    let setup = Setup::start()?;
    let (leases, config) = (setup.leases("a"), first(1));
    setup.run(leases.create_register(&config))?;
    let (version, _) = setup.found(&leases, config.volume)?;
    setup.run(setup.leases("b").delete_all(config.volume))?;
    let answer = setup.run(leases.swap_register(version, &without(&config, 2)));
    ensure!(matches!(answer, RegisterAnswer::Conflict | RegisterAnswer::Lost { .. }), "{answer:?}");
    ensure!(setup.count()? == 0, "it came back");
    lost(setup.read(&leases, config.volume), "it does not exist")
}

#[test]
fn of_several_writers_one_wins() -> Result<()> {
    let setup = Setup::start()?;
    let config = first(1);
    let writers = [setup.leases("a"), setup.leases("b"), setup.leases("c")];
    setup.run(writers[0].create_register(&config))?;
    let mut config = config;
    for round in 0..20 {
        let mut version = 0;
        for writer in &writers {
            version = setup.found(writer, config.volume)?.0;
        }
        let wanted: Vec<Config> = (1..=3)
            .map(|size| Config { size_blocks: 4096 * size, epoch: Epoch(config.epoch.0 + 1), ..config.clone() })
            .collect();
        let (a, b, c) = setup.run(async {
            tokio::join!(
                writers[0].swap_register(version, &wanted[0]),
                writers[1].swap_register(version, &wanted[1]),
                writers[2].swap_register(version, &wanted[2]),
            )
        });
        let answers = [a, b, c];
        let won: Vec<usize> = (0..3).filter(|at| answers[*at] == RegisterAnswer::Swapped).collect();
        let lost = answers.iter().filter(|answer| **answer == RegisterAnswer::Conflict).count();
        ensure!(won.len() == 1 && lost == 2, "round {round}: {answers:?}");
        config = setup.found(&writers[0], config.volume)?.1;
        ensure!(config == wanted[won[0]], "round {round}: another's");
    }
    Ok(())
}

#[test]
fn what_somebody_meddled_with_is_lost_and_says_so() -> Result<()> {
    let setup = Setup::start()?;
    let (leases, config) = (setup.leases("a"), first(1));
    let (objects, name) = (setup.objects()?, names::register_name(config.volume));
    setup.run(leases.create_register(&config))?;
    let good = setup.run(objects.get(&name))?;
    let edit = |key: &str, value: Option<&str>| -> Result<()> {
        let mut edited = setup.run(objects.get(&name))?;
        edited.metadata.annotations.clone_from(&good.metadata.annotations);
        let annotations = edited.metadata.annotations.get_or_insert_default();
        match value {
            Some(value) => annotations.insert(key.to_owned(), value.to_owned()),
            None => annotations.remove(key),
        };
        setup.run(objects.replace(&name, &PostParams::default(), &edited))?;
        Ok(())
    };
    let whole = good.metadata.annotations.as_ref().context("annotations")?[names::CONFIGURATION_ANNOTATION].clone();
    let changed = if whole.starts_with('A') { whole.replacen('A', "B", 1) } else { whole.replacen("Q", "R", 1) };
    for (value, says) in [
        (Some("??"), "is not base64"),
        (Some(""), "the bytes end"),
        (Some(changed.as_str()), "lockstep.storage/configuration: its"),
        (None, "is missing"),
    ] {
        edit(names::CONFIGURATION_ANNOTATION, value)?;
        lost(setup.read(&leases, config.volume), says)?;
    }
    // Put back, it is the register again.
    edit("somebody.dev/else", Some("note"))?;
    let (version, found) = setup.found(&leases, config.volume)?;
    ensure!(found == config);
    // What others wrote onto it stays.
    let swapped = setup.run(leases.swap_register(version, &without(&config, 2)));
    ensure!(swapped == RegisterAnswer::Swapped, "{swapped:?}");
    let kept = setup.run(objects.get(&name))?.metadata.annotations.context("annotations")?;
    ensure!(kept.get("somebody.dev/else").map(String::as_str) == Some("note"), "{kept:?}");

    // Deleted, and made again from what somebody had saved.
    setup.run(objects.delete(&name, &DeleteParams::default()))?;
    let mut restored = good.clone();
    restored.metadata.resource_version = None;
    restored.metadata.uid = None;
    setup.run(objects.create(&PostParams::default(), &restored))?;
    lost(setup.read(&leases, config.volume), "deleted and made again, or copied")?;
    // Made, and not filled: a creation that was interrupted. It can be finished.
    setup.run(objects.delete(&name, &DeleteParams::default()))?;
    restored.metadata.annotations = None;
    setup.run(objects.create(&PostParams::default(), &restored))?;
    lost(setup.read(&leases, config.volume), "its creation was interrupted")?;
    setup.run(leases.create_register(&config)).context("finished")?;
    setup.found(&leases, config.volume)?;
    Ok(())
}

#[test]
fn swap_without_an_answer_is_in_doubt_and_the_next_read_tells() -> Result<()> {
    let setup = Setup::start()?;
    let (leases, mut config) = (setup.leases("a"), first(1));
    setup.run(leases.create_register(&config))?;
    let mut happened = 0;
    for _ in 0..4 {
        let (version, found) = setup.found(&leases, config.volume)?;
        config = found;
        let next = Config { epoch: Epoch(config.epoch.0 + 1), size_blocks: config.size_blocks + 1, ..config.clone() };
        setup.server.pause()?;
        let started = Instant::now();
        let answer = setup.run(leases.swap_register(version, &next));
        let took = started.elapsed();
        setup.server.resume()?;
        ensure!(answer == RegisterAnswer::Failed, "{answer:?}");
        ensure!(took < REQUEST_LIMIT + Duration::from_secs(2), "{took:?}");
        let trouble = leases.trouble(config.volume).context("a reason")?;
        ensure!(trouble.contains("did not answer within 2s"), "{trouble}");
        let (later, found) = setup.until("an answer", || Ok(setup.found(&leases, config.volume).ok()))?;
        ensure!(found == next || found == config, "{found:?}");
        happened += usize::from(found == next);
        ensure!(leases.trouble(config.volume).is_none());
        // Whichever it was, one goes on from there; a swap that is still under way then finds another version.
        let after = Config { epoch: Epoch(found.epoch.0 + 1), ..found };
        let answer = setup.run(leases.swap_register(later, &after));
        ensure!(matches!(answer, RegisterAnswer::Swapped | RegisterAnswer::Conflict), "{answer:?}");
    }
    println!("{happened} of 4 happened");
    Ok(())
}

#[test]
fn without_rights_or_server_requests_fail_with_the_reason() -> Result<()> {
    let setup = Setup::start()?;
    let config = first(1);
    let place = Place { kubeconfig: setup.server.user_kubeconfig().to_owned(), ..setup.place() };
    let leases = Leases::new(place, "a".to_owned());
    let trouble = |says: &str| -> Result<()> {
        let trouble = leases.trouble(config.volume).context("a reason")?;
        ensure!(trouble.contains(says), "{trouble}");
        Ok(())
    };
    let refused = setup.run(leases.create_register(&config));
    ensure!(refused.as_ref().is_err_and(|error| error.to_string().contains("403")), "{refused:?}");
    ensure!(setup.read(&leases, config.volume) == RegisterAnswer::Failed);
    trouble("403")?;

    setup.server.allow(names::NAMESPACE)?;
    setup.until("rights", || Ok(setup.run(leases.create_register(&config)).ok()))?;
    let (version, _) = setup.found(&leases, config.volume)?;
    setup.server.forbid(names::NAMESPACE)?;
    setup.until("no rights", || Ok((setup.read(&leases, config.volume) == RegisterAnswer::Failed).then_some(())))?;
    let answer = setup.run(leases.swap_register(version, &without(&config, 2)));
    ensure!(answer == RegisterAnswer::Failed, "{answer:?}");
    trouble("403")?;
    ensure!(leases.requests().failed(Verb::Update, Kind::Configuration) == 1);

    setup.server.allow(names::NAMESPACE)?;
    setup.until("rights again", || Ok(setup.found(&leases, config.volume).ok()))?;
    setup.run(leases.delete_all(config.volume)).context("what the documentation allows is enough")?;

    setup.server.stop_server()?;
    ensure!(setup.read(&leases, config.volume) == RegisterAnswer::Failed);
    trouble("Connection refused")?;
    setup.server.restart_server()?;
    // Connections of before are dead, and not used.
    lost(setup.read(&leases, config.volume), "it does not exist")
}

/// Answers every request with this, and counts them. A real server does this too seldom.
fn serve_always(answer: &'static str) -> Result<(u16, Arc<AtomicUsize>)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let (port, asked) = (listener.local_addr()?.port(), Arc::new(AtomicUsize::new(0)));
    let counted = asked.clone();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let Ok(mut connection) = connection else { return };
            let mut bytes = [0; 65536];
            // A request here is small: it comes whole, or is counted by its first part.
            if connection.read(&mut bytes).is_ok_and(|count| count > 0) {
                counted.fetch_add(1, Ordering::SeqCst);
                let _ = connection.write_all(answer.as_bytes());
            }
        }
    });
    Ok((port, asked))
}

#[test]
fn no_request_is_sent_twice() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let busy = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 0\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    for answer in [busy, "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n", ""] {
        let (port, asked) = serve_always(answer)?;
        let home = tempfile::tempdir()?;
        let kubeconfig = home.path().join("kubeconfig");
        std::fs::write(
            &kubeconfig,
            format!(
                "{{\"apiVersion\": \"v1\", \"kind\": \"Config\", \"current-context\": \"c\", \
                 \"clusters\": [{{\"name\": \"c\", \"cluster\": {{\"server\": \"http://127.0.0.1:{port}\"}}}}], \
                 \"users\": [{{\"name\": \"c\", \"user\": {{}}}}], \
                 \"contexts\": [{{\"name\": \"c\", \"context\": {{\"cluster\": \"c\", \"user\": \"c\"}}}}]}}"
            ),
        )?;
        let leases = Leases::new(Place { kubeconfig, namespace: "x".to_owned() }, "a".to_owned());
        let refused = runtime.block_on(leases.create_register(&first(1)));
        ensure!(refused.is_err());
        ensure!(asked.load(Ordering::SeqCst) == 1, "{answer:?}: sent {} times", asked.load(Ordering::SeqCst));
    }
    let missing = Place { kubeconfig: "/there/is/none".into(), namespace: "x".to_owned() };
    let leases = Leases::new(missing, "a".to_owned());
    ensure!(runtime.block_on(leases.read_register(first(1).volume)) == RegisterAnswer::Failed);
    let trouble = leases.trouble(first(1).volume).context("a reason")?;
    ensure!(trouble.contains("kubeconfig /there/is/none"), "{trouble}");
    Ok(())
}
