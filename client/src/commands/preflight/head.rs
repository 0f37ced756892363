//! The table: each right on the application's items. Writes carry a condition that never holds.

use aws_sdk_dynamodb::types::AttributeValue;
use millrace_common::table::{CHUNK_SK_PREFIX, HEAD_SK, PK, SK, application_pk};

use super::{Trial, send};

/// Holds of no item and of no absence: what carries it writes nothing, whoever sends it.
const NEVER: &str = "attribute_exists(pk) AND attribute_not_exists(pk)";
/// Range key of the item that is never written.
const NOTHING_SK: &str = "preflight";

fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

impl Trial<'_> {
    /// Tries every right on the application's items.
    pub(super) async fn head(&mut self) {
        let table = self.arns.table;
        let subject = format!("table {table}");
        let pk = application_pk(&self.spec.name);
        let dynamodb = self.clients.dynamodb.clone();

        let answer = send(|| {
            let call = dynamodb.get_item().table_name(table).consistent_read(true);
            call.key(PK, text(&pk)).key(SK, text(HEAD_SK)).send()
        })
        .await;
        self.judge(&subject, "dynamodb:GetItem", answer);

        let answer = send(|| {
            let call = dynamodb.update_item().table_name(table).condition_expression(NEVER);
            let call = call.update_expression("SET #data = :data");
            let call = call.expression_attribute_names("#data", "data");
            let call = call.expression_attribute_values(":data", text("preflight"));
            call.key(PK, text(&pk)).key(SK, text(NOTHING_SK)).send()
        })
        .await;
        self.judge(&subject, "dynamodb:UpdateItem", answer);

        let answer = send(|| {
            let call = dynamodb.put_item().table_name(table).condition_expression(NEVER);
            call.item(PK, text(&pk)).item(SK, text(NOTHING_SK)).send()
        })
        .await;
        self.judge(&subject, "dynamodb:PutItem", answer);

        let answer = send(|| {
            let call = dynamodb.query().table_name(table).limit(1).consistent_read(true);
            let call = call.key_condition_expression("#pk = :pk AND begins_with(#sk, :prefix)");
            let call = call.expression_attribute_names("#pk", PK);
            let call = call.expression_attribute_names("#sk", SK);
            let call = call.expression_attribute_values(":pk", text(&pk));
            call.expression_attribute_values(":prefix", text(CHUNK_SK_PREFIX)).send()
        })
        .await;
        self.judge(&subject, "dynamodb:Query", answer);

        let answer = send(|| {
            let call = dynamodb.delete_item().table_name(table).condition_expression(NEVER);
            call.key(PK, text(&pk)).key(SK, text(NOTHING_SK)).send()
        })
        .await;
        self.judge(&subject, "dynamodb:DeleteItem", answer);
    }

    /// Tries to read the lease tables of the KCL that sources begin behind.
    pub(super) async fn lease_tables(&mut self) {
        let dynamodb = self.clients.dynamodb.clone();
        for table in self.spec.lease_tables() {
            let scan = || dynamodb.scan().table_name(table).limit(1).send();
            let answer = send(scan).await;
            self.judge(&format!("KCL lease table {table}"), "dynamodb:Scan", answer);
        }
    }
}
