//! Policies out of the table of rights: the least that lets a role work, no wildcard action.

use serde_json::{Value, json};

use super::arns::Arns;
use super::table::{On, Right, Role, of};

/// The policy document of these roles together, for an application.
#[must_use]
pub fn document(roles: &[Role], arns: &Arns<'_>) -> Value {
    let mut statements: Vec<(On, Vec<&str>)> = Vec::new();
    for right in roles.iter().flat_map(|role| of(*role)) {
        match statements.iter_mut().find(|(on, _)| *on == right.on) {
            Some((_, actions)) => actions.push(right.action),
            None => statements.push((right.on, vec![right.action])),
        }
    }
    let statements: Vec<Value> =
        statements.iter().map(|(on, actions)| statement(*on, actions, arns)).collect();
    // Of some things an application has none.
    let is_of_something = |statement: &Value| statement["Resource"] != json!([]);
    let statements: Vec<Value> = statements.into_iter().filter(is_of_something).collect();
    json!({ "Version": "2012-10-17", "Statement": statements })
}

/// The statement that allows one right.
#[must_use]
pub fn statement_for(right: &Right, arns: &Arns<'_>) -> Value {
    statement(right.on, &[right.action], arns)
}

fn statement(on: On, actions: &[&str], arns: &Arns<'_>) -> Value {
    let mut statement = json!({
        "Sid": sid(on),
        "Effect": "Allow",
        "Action": actions,
        "Resource": arns.of(on),
    });
    if let Some(key) = arns.leading_keys(on) {
        statement["Condition"] =
            json!({ "ForAllValues:StringEquals": { "dynamodb:LeadingKeys": [key] } });
    }
    statement
}

fn sid(on: On) -> &'static str {
    match on {
        On::Streams => "ReadStreams",
        On::Head => "KeepHead",
        On::Table => "KeepTable",
        On::LeaseTables => "ReadLeases",
        On::Results => "WriteResults",
        On::Buckets => "LookAtBuckets",
        On::Roles => "AssumeRoles",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::parse_toml;

    const FILE: &str = r#"
name = "word-count"
[source.logs]
stream = "lines"
format = "text"
[source.other]
stream = "arn:aws:kinesis:eu-west-1:999999999999:stream/far"
format = "text"
on_bad_record = "dead_letter"
[query]
sql = "SELECT line FROM logs"
[sink]
path = "s3://results/word-count/"
dead_letter_path = "s3://dead/"
"#;

    fn policy(role: Role) -> Value {
        let spec = parse_toml("app.toml", FILE, &[]).unwrap();
        let arns =
            Arns { spec: &spec, account: "123456789012", region: "eu-west-1", table: "millrace" };
        document(&[role], &arns)
    }

    #[test]
    fn the_policy_names_each_stream_the_items_and_the_prefixes() {
        let policy = policy(Role::Application);
        let [streams, head, results] = policy["Statement"].as_array().unwrap().as_slice() else {
            panic!("{policy}");
        };
        assert_eq!(
            streams["Resource"],
            json!([
                "arn:aws:kinesis:eu-west-1:123456789012:stream/lines",
                "arn:aws:kinesis:eu-west-1:999999999999:stream/far"
            ])
        );
        assert_eq!(
            head["Resource"],
            json!(["arn:aws:dynamodb:eu-west-1:123456789012:table/millrace"])
        );
        let keys = &head["Condition"]["ForAllValues:StringEquals"]["dynamodb:LeadingKeys"];
        assert_eq!(keys, &json!(["application#word-count"]));
        assert_eq!(
            results["Resource"],
            json!(["arn:aws:s3:::dead/*", "arn:aws:s3:::results/word-count/*"])
        );
        assert_eq!(results["Action"], json!(["s3:PutObject"]));
    }

    #[test]
    fn a_lease_table_may_be_read_where_a_source_begins_behind_it() {
        let text = FILE.replacen("\"lines\"", "\"lines\"\nstart = { kcl = \"lines-kcl\" }", 1);
        let spec = parse_toml("app.toml", &text, &[]).unwrap();
        let arns =
            Arns { spec: &spec, account: "123456789012", region: "eu-west-1", table: "millrace" };
        let policy = document(&[Role::Application], &arns);
        let statements = policy["Statement"].as_array().unwrap();
        let leases = statements.iter().find(|statement| statement["Sid"] == "ReadLeases").unwrap();
        assert_eq!(leases["Action"], json!(["dynamodb:Scan"]));
        let table = "arn:aws:dynamodb:eu-west-1:123456789012:table/lines-kcl";
        assert_eq!(leases["Resource"], json!([table]));
    }

    #[test]
    fn the_role_of_a_source_may_be_assumed_and_no_other() {
        let role = "arn:aws:iam::999999999999:role/reader";
        let own = format!("\"lines\"\naws = {{ role_arn = \"{role}\" }}");
        let of_profile =
            "stream = \"s\"\naws = { profile = \"p\", role_arn = \"arn:aws:iam::1:role/r\" }";
        let third = format!("[source.third]\n{of_profile}\nformat = \"text\"\n[query]");
        let text = FILE.replacen("\"lines\"", &own, 1).replacen("[query]", &third, 1);
        let spec = parse_toml("app.toml", &text, &[]).unwrap();
        let arns =
            Arns { spec: &spec, account: "123456789012", region: "eu-west-1", table: "millrace" };
        let policy = document(&[Role::Application], &arns);
        let statements = policy["Statement"].as_array().unwrap();
        let roles = statements.iter().find(|statement| statement["Sid"] == "AssumeRoles").unwrap();
        assert_eq!(roles["Action"], json!(["sts:AssumeRole"]));
        assert_eq!(roles["Resource"], json!([role]), "a profile's role is for that profile");
    }

    #[test]
    fn what_is_optional_joins_the_statement_of_its_resource() {
        let spec = parse_toml("app.toml", FILE, &[]).unwrap();
        let arns =
            Arns { spec: &spec, account: "123456789012", region: "eu-west-1", table: "millrace" };
        let policy = document(&[Role::Application, Role::Optional], &arns);
        let results = policy["Statement"].as_array().unwrap().last().unwrap();
        let actions = json!(["s3:PutObject", "s3:GetObject", "s3:ListMultipartUploadParts"]);
        assert_eq!(results["Action"], actions);
    }

    #[test]
    fn the_master_has_the_table_and_nothing_else() {
        let policy = policy(Role::Master);
        let statements = policy["Statement"].as_array().unwrap();
        assert_eq!(statements.len(), 1, "{policy}");
        assert!(statements[0].get("Condition").is_none(), "{policy}");
    }
}
