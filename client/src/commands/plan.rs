//! `millrace plan FILE`: whether an application fits on the live cluster or on one described, and the
//! arithmetic.
//!
//! Promises: the answer is the one that the master admits by; exit code 3 when it can never fit; a
//! stream whose shards can not be had is said to be unknown and never guessed. Never does: start
//! anything.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_client::Client;
use millrace_common::application::ApplicationSpec;
use millrace_common::aws::{self, Clients};
use millrace_common::error::{Code, Error};
use millrace_common::plan::{
    self, Described, Line, Mend, Node, Plan, Question, Share, Status, Verdict,
};
use millrace_common::resources::Resources;
use millrace_proto::v1::ContainerState;

use super::master;
use crate::arguments::{FileAndSettings, Global, Plan as Arguments, Shards};
use crate::ended::{Ended, Outcome};
use crate::output::{Align, Output, table};

/// How long Kinesis may take for all streams together: a plan is also made where there is none.
const STREAMS_DEADLINE: Duration = Duration::from_secs(5);

pub(super) async fn run(global: &Global, output: &Output, command: &Arguments) -> Outcome {
    let spec = command.source.load()?;
    millrace_sql::validate(&spec).await?;
    let mut shards = given(&spec, &command.shards)?;
    let (nodes, share) = match &command.cluster {
        Some(Described(nodes)) => (nodes.clone(), None),
        None => live(&master(global).await?, &spec).await?,
    };
    if shards.len() < spec.sources.len() {
        shards = counted(&spec, shards, output).await;
    }
    let plan = plan::plan(Question {
        spec: &spec,
        nodes: &nodes,
        share: share.as_ref(),
        num_lost: command.nodes_lost,
        shards: &shards,
    });
    output.result(&plan, || format!("{}\n\n{}", arithmetic(&plan), end(&plan, &command.source)))?;
    match plan.refusal() {
        Some(refusal) => Err(Ended::from(refusal)),
        None => Ok(()),
    }
}

/// Says the arithmetic of an application that the master has refused for its size.
pub(super) async fn say(client: &Client, output: &Output, spec: &ApplicationSpec) {
    // The refusal itself follows; when the master is gone meanwhile, it has to do.
    let Ok((nodes, share)) = live(client, spec).await else { return };
    let (share, shards) = (share.as_ref(), BTreeMap::new());
    let question = Question { spec, nodes: &nodes, share, num_lost: 0, shards: &shards };
    output.say(&arithmetic(&plan::plan(question)));
}

/// The nodes of the cluster, and what the application's queue may take, without what the application
/// has there itself.
async fn live(client: &Client, spec: &ApplicationSpec) -> Outcome<(Vec<Node>, Option<Share>)> {
    let mut own = BTreeMap::<String, Resources>::new();
    for container in client.containers(spec.name.as_str()).await? {
        let status = container.status.unwrap_or_default();
        let is_live = matches!(status.state(), ContainerState::Granted | ContainerState::Running);
        if let Some(resources) = status.resources.filter(|_| is_live) {
            let sum = own.entry(container.node_id).or_default();
            *sum = sum.saturating_add(Resources::from_proto(&resources));
        }
    }
    let listed = client.nodes().await?;
    let own_on = |node: &str| own.get(node).copied().unwrap_or_default();
    let nodes: Vec<Node> =
        listed.iter().map(|node| Node::listed(node, own_on(&node.node_id))).collect();
    let sum = |sum: Resources, part| sum.saturating_add(part);
    let own = own.values().copied().fold(Resources::default(), sum);
    let free = nodes.iter().map(|node| node.free).fold(Resources::default(), sum);
    let queues = client.queues().await?;
    if !queues.iter().any(|queue| queue.name == spec.queue.as_str()) {
        let names: Vec<&str> = queues.iter().map(|queue| queue.name.as_str()).collect();
        return Err(Error::new(
            Code::UnknownQueue,
            format!("this cluster has no queue {}", spec.queue),
            format!("set `queue` to one of {}, or leave it out", names.join(", ")),
        )
        .into());
    }
    let share = Share::listed(spec.queue.as_str(), &queues, own, free);
    Ok((nodes, share))
}

/// The shards that the command line names, by source.
fn given(spec: &ApplicationSpec, flags: &[Shards]) -> Outcome<BTreeMap<String, u32>> {
    let mut shards = BTreeMap::new();
    for Shards { source, count } in flags {
        match source {
            None => {
                for name in spec.sources.keys() {
                    shards.entry(name.clone()).or_insert(*count);
                }
            }
            Some(name) if spec.sources.contains_key(name) => {
                shards.insert(name.clone(), *count);
            }
            Some(name) => {
                let known: Vec<&str> = spec.sources.keys().map(String::as_str).collect();
                return Err(Error::new(
                    Code::InvalidValue,
                    format!("--shards {name}={count}: the file has no source {name}"),
                    format!("name one of its sources: {}", known.join(", ")),
                )
                .into());
            }
        }
    }
    Ok(shards)
}

/// The shards of the other sources, as far as Kinesis tells them.
async fn counted(
    spec: &ApplicationSpec,
    mut shards: BTreeMap<String, u32>,
    output: &Output,
) -> BTreeMap<String, u32> {
    let unknown = |name: &str, why: &str| {
        output.warn(&format!("the shards of source {name} are not known ({why}): give --shards"));
    };
    let asked = async {
        let clients = Clients::load(&spec.aws).await.map_err(|error| error.to_string())?;
        let missing = spec.sources.iter().filter(|(name, _)| !shards.contains_key(*name));
        let calls = missing.map(|(name, source)| {
            let clients = &clients;
            async move { (name.clone(), open_shards(clients, &source.stream).await) }
        });
        Ok::<_, String>(futures::future::join_all(calls).await)
    };
    let answers = match tokio::time::timeout(STREAMS_DEADLINE, asked).await {
        Ok(Ok(answers)) => answers,
        Ok(Err(why)) => {
            spec.sources.keys().for_each(|name| unknown(name, &why));
            return shards;
        }
        Err(_) => {
            let why = format!("no answer within {} s", STREAMS_DEADLINE.as_secs());
            spec.sources.keys().for_each(|name| unknown(name, &why));
            return shards;
        }
    };
    for (name, answer) in answers {
        match answer {
            Ok(count) => drop(shards.insert(name, count)),
            Err(error) => unknown(&name, &error.to_string()),
        }
    }
    shards
}

async fn open_shards(clients: &Clients, stream: &str) -> Result<u32, Error> {
    let call = clients.kinesis.describe_stream_summary();
    let call =
        if stream.starts_with("arn:") { call.stream_arn(stream) } else { call.stream_name(stream) };
    let answer = call.send().await.map_err(|error| {
        aws::explain("kinesis", "DescribeStreamSummary", &format!("stream {stream}"), &error)
    })?;
    let summary = answer.stream_description_summary.as_ref();
    let count = summary.and_then(|summary| u32::try_from(summary.open_shard_count).ok());
    count.filter(|count| *count > 0).ok_or_else(|| {
        Error::new(
            Code::AwsOther,
            format!("kinesis:DescribeStreamSummary on stream {stream} tells no open shard"),
            "see that the endpoint speaks Kinesis",
        )
    })
}

/// The lines of a plan as a table.
fn arithmetic(plan: &Plan) -> String {
    const COLUMNS: [(&str, Align); 4] = [
        ("WHAT", Align::Left),
        ("NEEDS", Align::Left),
        ("HAS", Align::Left),
        ("FITS", Align::Left),
    ];
    let row = |line: &Line| {
        let needs = if line.needs.is_empty() { "-".to_owned() } else { line.needs.clone() };
        vec![line.what.clone(), needs, line.has.clone(), mark(line.status).to_owned()]
    };
    let mut text = table(&COLUMNS, plan.lines.iter().map(row));
    for line in plan.lines.iter().filter(|line| line.status == Status::Tight) {
        let why = line.why.as_deref().unwrap_or_default();
        let setting = line.setting.as_ref().map(|setting| format!(" (--set {setting})"));
        text.push_str(&format!("\ntight: {}: {why}{}", line.what, setting.unwrap_or_default()));
    }
    text
}

fn mark(status: Status) -> &'static str {
    match status {
        Status::Info => "",
        Status::Ok => "yes",
        Status::Tight => "tight",
        Status::Unknown => "?",
        Status::NotNow => "not now",
        Status::Never => "no",
    }
}

/// The verdict, and the commands that mend it.
fn end(plan: &Plan, source: &FileAndSettings) -> String {
    let name = &plan.name;
    match plan.verdict {
        Verdict::Fits => {
            let (first, in_all) = (plan.sums.executors_min, plan.sums.executors);
            let plural = if first == 1 { "" } else { "s" };
            let more = if in_all > first {
                format!("; there is room for {in_all}")
            } else {
                String::new()
            };
            format!("fits: {name} starts with a driver and {first} executor{plural}{more}")
        }
        Verdict::Waits if plan.mends.is_empty() => {
            format!("waits: submit takes {name} and queues it: {}", plan.why().unwrap_or_default())
        }
        Verdict::Waits => format!(
            "waits: submit takes {name} and queues it: {}\nit starts at once with any of\n{}",
            plan.why().unwrap_or_default(),
            commands(plan, source)
        ),
        Verdict::Never if plan.mends.is_empty() => "does not fit".to_owned(),
        Verdict::Never => format!("does not fit; it does with any of\n{}", commands(plan, source)),
    }
}

fn commands(plan: &Plan, source: &FileAndSettings) -> String {
    let line = |mend: &Mend| {
        if mend.settings.is_empty() {
            return format!("  {}", mend.change);
        }
        let settings = mend.settings_after(&source.settings).into_iter();
        let settings: Vec<String> =
            settings.map(|setting| format!(" --set {}", quoted(setting))).collect();
        let params = source.params.iter().map(|param| format!(" --param {}", quoted(param)));
        let told = settings.into_iter().chain(params).collect::<String>();
        let file = quoted(&source.file.display().to_string());
        format!("  millrace submit {file}{told}   # {}", mend.change)
    };
    plan.mends.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// As a shell takes it.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._=/:,@+-".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use millrace_common::application;

    use super::*;

    const FILE: &str = "name = \"wc\"\n[resources]\nexecutors = 16\n\
        executor = { cores = 2, memory = \"3GiB\" }\n[source.logs]\nstream = \"app-logs\"\n\
        format = \"text\"\n[query]\nsql = \"SELECT line FROM logs\"\n\
        [sink]\npath = \"s3://results/wc/\"\n";

    fn shown(cluster: &str) -> String {
        let spec = application::parse_toml("wc.toml", FILE, &[]).unwrap();
        let Described(nodes) = cluster.parse().unwrap();
        let shards = BTreeMap::from([("logs".to_owned(), 36)]);
        let plan = plan::plan(Question {
            spec: &spec,
            nodes: &nodes,
            share: None,
            num_lost: 0,
            shards: &shards,
        });
        let source = FileAndSettings {
            file: "my app.toml".into(),
            settings: vec!["env.A=b c".to_owned()],
            params: Vec::new(),
        };
        format!("{}\n{}", arithmetic(&plan), end(&plan, &source))
    }

    #[test]
    fn what_fits_ends_with_what_starts() {
        let text = shown("5x8:32GiB");
        assert!(text.ends_with("fits: wc starts with a driver and 16 executors"), "{text}");
        assert!(text.lines().all(|line| !line.ends_with(' ')), "{text}");
        assert!(text.contains("16 x (2 cores, 3GiB)"), "{text}");
    }

    #[test]
    fn what_does_not_fit_ends_with_commands() {
        let text = shown("4x8:32GiB");
        let command = "  millrace submit 'my app.toml' --set 'env.A=b c' \
            --set resources.executors=15   # 15 executors instead of 16";
        assert!(text.lines().any(|line| line == command), "{text}");
        assert!(text.lines().any(|line| line == "  add 1 node of 8 cores, 32GiB"), "{text}");
    }

    #[test]
    fn shards_are_of_one_source_or_of_all() {
        let spec = application::parse_toml("wc.toml", FILE, &[]).unwrap();
        let flag = |source: Option<&str>, count| Shards { source: source.map(Into::into), count };
        let both = given(&spec, &[flag(None, 4), flag(Some("logs"), 36)]).unwrap();
        assert_eq!(both, BTreeMap::from([("logs".to_owned(), 36)]));
        match given(&spec, &[flag(Some("lgs"), 1)]) {
            Err(Ended::Error(error, _)) => assert!(error.next_move().contains("logs"), "{error}"),
            other => panic!("{other:?}"),
        }
    }
}
