//! Parameters: from text and type name to the typed values that stand for `$name` in a query.
//!
//! Promises: a value that does not fit its type is refused by name, before anything runs; a value that
//! is a reference to a secret is checked for its type's sake only, by a stand-in. Never does: put a
//! value into the text of a query.

use std::collections::BTreeMap;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{ParamValues, Result as EngineResult, ScalarValue};
use datafusion::logical_expr::{Expr, LogicalPlan};
use millrace_common::application::{ApplicationSpec, Param};
use millrace_common::secrets::Reference;
use millrace_common::{Code, Error};

use crate::schema::parse_type;

/// The values of an application's parameters, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parameters(BTreeMap<String, ScalarValue>);

impl Parameters {
    /// The parameters of an application, each of its type; `reveal` turns a value into what it stands
    /// for, and gives none for a secret that is not known here.
    ///
    /// # Errors
    /// [`Code::ParameterValue`] naming the parameter, its value and its type.
    pub fn of(
        spec: &ApplicationSpec,
        reveal: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Error> {
        let typed = spec.params.iter().map(|(name, param)| {
            let data_type = type_of(name, param)?;
            let value = match reveal(&param.value) {
                Some(value) => value_of(name, param, value, &data_type)?,
                None => ScalarValue::new_default(&data_type).map_err(|error| {
                    Error::internal(format!("a stand-in for params.{name}")).caused_by(error)
                })?,
            };
            Ok((name.clone(), value))
        });
        Ok(Self(typed.collect::<Result<_, Error>>()?))
    }

    /// As [`Parameters::of`], where no secret is known: at submit.
    ///
    /// # Errors
    /// As [`Parameters::of`].
    pub fn to_check(spec: &ApplicationSpec) -> Result<Self, Error> {
        Self::of(spec, |value| match Reference::parse(value) {
            Ok(Some(_)) => None,
            _ => Some(value.to_owned()),
        })
    }

    /// The names that there are.
    pub(crate) fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    /// True when there is one of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// `plan` with every `$name` bound.
    pub(crate) fn bind(&self, plan: LogicalPlan) -> EngineResult<LogicalPlan> {
        let values: Vec<_> = self.0.iter().map(|(name, value)| (name, value.clone())).collect();
        plan.with_param_values(ParamValues::from(values))
    }
}

/// The names behind every `$` in a plan, without the `$`.
pub(crate) fn named_in(plan: &LogicalPlan) -> EngineResult<Vec<String>> {
    let mut names = Vec::new();
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|root| {
            root.apply(|expression| {
                if let Expr::Placeholder(placeholder) = expression {
                    names.push(placeholder.id.trim_start_matches('$').to_owned());
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(names)
}

fn type_of(name: &str, param: &Param) -> Result<DataType, Error> {
    let refuse = |why: String| {
        let message = format!("params.{name}: {why}");
        Error::new(Code::ParameterValue, message, "give it a type that one value can have")
    };
    let data_type = parse_type(&param.data_type).map_err(refuse)?;
    match data_type {
        DataType::List(_) | DataType::Struct(_) | DataType::Binary => {
            Err(refuse(format!("a parameter can not be of type {}", param.data_type)))
        }
        data_type => Ok(data_type),
    }
}

fn value_of(
    name: &str,
    param: &Param,
    value: String,
    data_type: &DataType,
) -> Result<ScalarValue, Error> {
    let shown = value.clone();
    let refuse = || {
        Error::new(
            Code::ParameterValue,
            format!("params.{name} = {shown:?} is no {}", param.data_type),
            format!(
                "give a {}, or declare another type: --param {name}:TYPE=VALUE",
                param.data_type
            ),
        )
    };
    // What the engine would take beside: "1", "yes", a time without its zone.
    if *data_type == DataType::Boolean && !matches!(value.as_str(), "true" | "false") {
        return Err(refuse());
    }
    let parsed = ScalarValue::try_from_string(value, data_type);
    parsed.ok().filter(|value| !value.is_null()).ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use millrace_common::application::parse_toml;

    use super::*;
    use crate::{validate, warnings};

    fn spec(params: &str, sql: &str) -> ApplicationSpec {
        let text = format!(
            "name = \"a\"\n[params]\n{params}\n[source.logs]\nstream = \"s\"\n\
             schema = {{ ts = \"timestamp\", level = \"string\", n = \"long\" }}\n\
             [query]\nsql = \"{sql}\"\n[sink]\npath = \"s3://results/a/\"\n"
        );
        parse_toml("app.toml", &text, &[]).unwrap()
    }

    #[tokio::test]
    async fn parameters_stand_in_every_place_of_a_query() {
        for sql in [
            "SELECT level FROM logs WHERE level = $level AND n > $n AND ts >= $since",
            "SELECT upper($level) AS u, $n + 1 AS m, $share * n AS s FROM logs",
            "SELECT CASE WHEN $on THEN $level ELSE level END AS l FROM logs",
            "SELECT level, count(*) AS c FROM logs GROUP BY level HAVING count(*) > $n",
            "SELECT level FROM logs WHERE n IN (SELECT n FROM logs WHERE level = $level) LIMIT 5",
            "SELECT date_trunc('hour', $since) AS h, $price * 2 AS p, $day AS d FROM logs",
            "SELECT coalesce(level, $level) AS l FROM logs ORDER BY l LIMIT $n",
        ] {
            let params = "level = \"ERROR\"\nn = 5\nshare = 0.5\non = true\n\
                          since = 2026-11-22T10:00:00Z\nday = 2026-11-22\n\
                          price = { type = \"decimal(10,2)\", value = \"1.50\" }";
            validate(&spec(params, sql)).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
    }

    #[tokio::test]
    async fn a_value_that_does_not_fit_is_named() {
        for (params, name) in [
            ("n = { type = \"long\", value = \"five\" }", "params.n = \"five\" is no long"),
            ("n = { type = \"int\", value = 3000000000 }", "params.n"),
            ("n = { type = \"boolean\", value = 1 }", "params.n"),
            ("n = { type = \"timestamp\", value = \"noon\" }", "params.n"),
            ("n = { type = \"decimal(4,2)\", value = \"123.45\" }", "params.n"),
            ("n = { type = \"lang\", value = 1 }", "did you mean"),
            ("n = { type = \"list<long>\", value = 1 }", "params.n"),
        ] {
            let error = validate(&spec(params, "SELECT n FROM logs")).await.unwrap_err();
            assert_eq!(error.code(), Code::ParameterValue, "{params}: {error}");
            assert!(error.message().contains(name), "{params}: {error}");
        }
    }

    #[tokio::test]
    async fn a_type_that_does_not_fit_the_query_is_refused() {
        let error = validate(&spec("day = 2026-11-22", "SELECT n * $day AS x FROM logs")).await;
        assert_eq!(error.unwrap_err().code(), Code::SqlType);
    }

    #[tokio::test]
    async fn names_that_are_not_there_and_names_that_are_not_used_are_told() {
        let spec_of = |sql| spec("level = \"ERROR\"\nother = 1", sql);
        let error = validate(&spec_of("SELECT n FROM logs WHERE level = $levl")).await.unwrap_err();
        assert_eq!(error.code(), Code::ParameterName);
        assert!(
            error.message().contains("$levl") && error.next_move().contains("level"),
            "{error}"
        );
        let told = warnings(&spec_of("SELECT n FROM logs WHERE level = $level")).await.unwrap();
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("$other"), "{told:?}");
    }

    #[tokio::test]
    async fn a_secret_is_checked_by_its_type() {
        let params =
            "word = \"secret://env/WORD\"\nn = { type = \"long\", value = \"secret://file/n\" }";
        let spec = spec(params, "SELECT n FROM logs WHERE level = $word AND n > $n");
        validate(&spec).await.unwrap();
        let revealed = Parameters::of(&spec, |value| match value {
            "secret://file/n" => Some("7".to_owned()),
            _ => Some("word".to_owned()),
        });
        let expected = BTreeMap::from([
            ("n".to_owned(), ScalarValue::from(7_i64)),
            ("word".to_owned(), ScalarValue::from("word")),
        ]);
        assert_eq!(revealed.unwrap().0, expected);
    }
}
