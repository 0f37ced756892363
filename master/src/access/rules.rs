//! What a request needs, by its path: the one table of all methods and routes. Pure.
//!
//! What is not in the table is refused to everybody. A test goes through the compiled descriptors
//! and through the routes, so that a method without a rule does not pass it.

use millrace_common::access::Role;

use super::principal::Principal;

/// What a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing: it tells no more than that a master listens here.
    Nothing,
    /// A person or a program of at least this role.
    Role(Role),
    /// A node.
    Node,
    /// A container; the service checks of which attempt.
    Container,
}

const VIEWER: Need = Need::Role(Role::Viewer);
const SUBMITTER: Need = Need::Role(Role::Submitter);
const ADMIN: Need = Need::Role(Role::Admin);

/// Every method and route; `{}` stands for one segment.
const RULES: &[(&str, Need)] = &[
    ("/healthz", Need::Nothing),
    ("/grpc.health.v1.Health/Check", Need::Nothing),
    ("/grpc.health.v1.Health/Watch", Need::Nothing),
    ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", VIEWER),
    ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", VIEWER),
    ("/metrics", VIEWER),
    ("/api/v1/cluster", VIEWER),
    ("/api/v1/nodes", VIEWER),
    ("/api/v1/applications", VIEWER),
    ("/api/v1/applications/{}", VIEWER),
    ("/api/v1/applications/{}/batches", VIEWER),
    ("/api/v1/containers", VIEWER),
    ("/millrace.v1.ClientService/GetCluster", VIEWER),
    ("/millrace.v1.ClientService/ListNodes", VIEWER),
    ("/millrace.v1.ClientService/ListApplications", VIEWER),
    ("/millrace.v1.ClientService/GetApplication", VIEWER),
    ("/millrace.v1.ClientService/ListContainers", VIEWER),
    ("/millrace.v1.ClientService/ListBatches", VIEWER),
    ("/millrace.v1.ClientService/WhyApplication", VIEWER),
    ("/millrace.v1.ClientService/ListQueues", VIEWER),
    ("/millrace.v1.ClientService/ReadLogs", VIEWER),
    ("/millrace.v1.ClientService/SubmitApplication", SUBMITTER),
    ("/millrace.v1.ClientService/StopApplication", SUBMITTER),
    ("/millrace.v1.ClientService/KillApplication", SUBMITTER),
    ("/millrace.v1.ClientService/ResetApplication", SUBMITTER),
    ("/millrace.v1.ClientService/RepairApplication", SUBMITTER),
    ("/millrace.v1.ClientService/ScaleApplication", SUBMITTER),
    ("/millrace.v1.ClientService/DrainNode", ADMIN),
    ("/millrace.v1.ClientService/UndrainNode", ADMIN),
    ("/millrace.v1.ClientService/CreateToken", ADMIN),
    ("/millrace.v1.ClientService/ListTokens", ADMIN),
    ("/millrace.v1.ClientService/RevokeToken", ADMIN),
    ("/millrace.v1.NodeService/Session", Need::Node),
    ("/millrace.v1.ResourceService/Session", Need::Container),
];

/// What a request for this path needs; none when there is no rule, and so nobody may.
#[must_use]
pub(crate) fn need(path: &str) -> Option<Need> {
    RULES.iter().find(|(pattern, _)| matches(pattern, path)).map(|(_, need)| *need)
}

/// Segment by segment; `{}` takes one that is not empty.
fn matches(pattern: &str, path: &str) -> bool {
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return true,
            (Some("{}"), Some(segment)) if !segment.is_empty() => {}
            (Some(wanted), Some(given)) if wanted == given => {}
            _ => return false,
        }
    }
}

impl Need {
    /// Whether this one has what is needed.
    #[must_use]
    pub(crate) fn is_met_by(self, principal: &Principal) -> bool {
        match (self, principal) {
            (Self::Nothing, _) | (_, Principal::Anyone) => true,
            (Self::Role(needed), Principal::User { role, .. }) => *role >= needed,
            (Self::Node, Principal::Node) | (Self::Container, Principal::Container { .. }) => true,
            _ => false,
        }
    }

    /// In words, for a refusal.
    #[must_use]
    pub(crate) fn describe(self) -> String {
        match self {
            Self::Nothing => "no token".to_owned(),
            Self::Role(role) => format!("a token of the role {role}"),
            Self::Node => "the nodes' token".to_owned(),
            Self::Container => "the token of a container".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_proto::v1::FILE_DESCRIPTOR_SET;
    use prost::Message as _;
    use prost_types::FileDescriptorSet;

    use super::*;

    /// Methods of these are not served by a master: they must have no rule.
    const OF_CONTAINERS: [&str; 3] = ["DriverService", "TaskService", "BlockService"];

    fn methods(descriptors: &[u8]) -> Vec<(String, String)> {
        let set = FileDescriptorSet::decode(descriptors).unwrap();
        let mut all = Vec::new();
        for file in &set.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    all.push((service.name().to_owned(), path));
                }
            }
        }
        all
    }

    #[test]
    fn every_method_has_a_rule_or_is_not_the_masters() {
        let ours = methods(FILE_DESCRIPTOR_SET);
        assert!(ours.len() > 20, "{ours:?}");
        for (service, path) in ours {
            let is_ours = !OF_CONTAINERS.contains(&service.as_str());
            assert_eq!(need(&path).is_some(), is_ours, "{path}: add a rule to access/rules.rs");
        }
        for (_, path) in methods(tonic_health::pb::FILE_DESCRIPTOR_SET) {
            assert!(need(&path).is_some(), "{path}: add a rule to access/rules.rs");
        }
    }

    #[test]
    fn every_route_has_a_rule_and_every_rule_is_of_something() {
        let routes = crate::http::all();
        for (route, _) in &routes {
            let path = route.replace("{name}", "word-count");
            assert!(need(&path).is_some(), "{route}: add a rule to access/rules.rs");
        }
        let methods = methods(FILE_DESCRIPTOR_SET);
        for (pattern, _) in RULES.iter().filter(|(pattern, _)| !pattern.starts_with("/grpc.")) {
            let is_route =
                routes.iter().any(|(route, _)| route.replace("{name}", "{}") == *pattern);
            let is_method = methods.iter().any(|(_, path)| path == pattern);
            assert!(is_route || is_method, "{pattern} is the rule of nothing");
        }
    }

    #[test]
    fn only_health_needs_nothing() {
        let open: Vec<&str> = RULES
            .iter()
            .filter(|(_, need)| *need == Need::Nothing)
            .map(|(pattern, _)| *pattern)
            .collect();
        let health = "/grpc.health.v1.Health/";
        assert_eq!(open, ["/healthz", &format!("{health}Check"), &format!("{health}Watch")]);
    }

    #[test]
    fn what_is_like_a_path_is_not_the_path() {
        for path in [
            "",
            "/",
            "//healthz",
            "/healthz/",
            "/HEALTHZ",
            "/api/v1/applications/",
            "/api/v1/applications/a/b",
            "/api/v1/applications/a/batches/",
            "/millrace.v1.ClientService/",
            "/millrace.v1.ClientService/getCluster",
            "/millrace.v1.BlockService/Fetch",
        ] {
            assert_eq!(need(path), None, "{path}");
        }
    }

    #[test]
    fn each_needs_what_it_says() {
        let user = |role| Principal::User { name: "u".to_owned(), role };
        let container = Principal::Container { application: "a".to_owned(), attempt: 1 };
        let all = [
            user(Role::Viewer),
            user(Role::Submitter),
            user(Role::Admin),
            Principal::Node,
            container,
            Principal::Anyone,
        ];
        let met = |need: Need| all.each_ref().map(|principal| need.is_met_by(principal));
        assert_eq!(met(Need::Nothing), [true; 6]);
        assert_eq!(met(VIEWER), [true, true, true, false, false, true]);
        assert_eq!(met(SUBMITTER), [false, true, true, false, false, true]);
        assert_eq!(met(ADMIN), [false, false, true, false, false, true]);
        assert_eq!(met(Need::Node), [false, false, false, true, false, true]);
        assert_eq!(met(Need::Container), [false, false, false, false, true, true]);
    }
}
