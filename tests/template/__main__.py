"""Checks template.yaml as CloudFormation gets it: transformed by SAM, with each condition on and off, and linted. Also checks
rules that a linter does not know.

    target/venv/bin/python tests/template

Needs the packages that tests/run installs in target/venv, and no network.
"""

import json
import os
import re
import sys
import unittest
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
ROOT = Path(__file__).resolve().parent.parent.parent

import cfnlint.api  # noqa: E402
import tomllib  # noqa: E402
from samtranslator.translator.transform import transform  # noqa: E402


def load_make():
    loader = SourceFileLoader("make", str(ROOT / "release" / "make"))
    make = module_from_spec(spec_from_loader("make", loader))
    sys.dont_write_bytecode = True
    loader.exec_module(make)
    return make


MAKE = load_make()
TEMPLATE = MAKE.load((ROOT / "template.yaml").read_text())
PARAMETERS = TEMPLATE["Parameters"]
ACCOUNT = "us-east-1:123456789012"
SECRET = f"arn:aws:secretsmanager:{ACCOUNT}:secret:kinto-AbCdEf"

# Together these have each condition on, and off.
DEPLOYMENTS = {
    "defaults": {},
    "all that a stack may have": {
        "KintoIni": f"arn:aws:ssm:{ACCOUNT}:parameter/kinto.ini",
        "IniSecretArns": f"{SECRET},{SECRET}2",
        "Listeners": "true",
        "ListenerArns": f"arn:aws:events:{ACCOUNT}:event-bus/default",
        "SigningKeyArns": f"arn:aws:kms:{ACCOUNT}:key/1,arn:aws:kms:{ACCOUNT}:key/2",
        "ChainBucket": "true",
        "RefreshSignatureDays": "7",
        "Front": "function-url",
        "Admin": "true",
        "Cdn": "true",
        "CdnDomainName": "kinto.example.org",
        "CdnCertificateArn": f"arn:aws:acm:{ACCOUNT}:certificate/a",
        "CdnOriginShieldRegion": "eu-west-1",
        "EventQueue": "true",
        "Deployment": "Canary10Percent5Minutes",
        "AlarmTopicArn": f"arn:aws:sns:{ACCOUNT}:alarms",
        "Tracing": "Active",
        "ApiReservedConcurrency": "100",
        "MaxReadRequestUnits": "0",
        "MaxWriteRequestUnits": "0",
        "TombstoneDays": "90",
        "ExportBucket": "kinto-exports",
        "ExportSchedule": "cron(0 3 * * ? *)",
    },
    "another table, what Kinto had, and a Megaphone": {
        "TableName": "restored",
        "TableStreamArn": f"arn:aws:dynamodb:{ACCOUNT}:table/restored/stream/2026-11-26T00:00:00.000",
        "UseridHmacSecretArn": SECRET,
        "MegaphoneUrl": "https://megaphone.example.org",
        "MegaphoneApiKeyArn": SECRET,
        "MatchKintoChanges": "/buckets/main",
        "Admin": "true",
        "AccessLogs": "false",
        "RequestLog": "false",
        "Metrics": "false",
        "SweepUnits": "0",
        "TlsOnly": "false",
    },
}
PROFILES = tomllib.loads((ROOT / "release" / "samconfig.toml").read_text())
for profile, commands in PROFILES.items():
    if profile == "version":
        continue
    said = commands["deploy"]["parameters"].get("parameter_overrides", "")
    said = said.replace("REGION:ACCOUNT", ACCOUNT)
    DEPLOYMENTS[f"the profile {profile}"] = {
        **(MAKE.SAID if "template-" in commands["deploy"]["parameters"]["template_file"] else {}),
        **{name: value.strip("'") for name, value in re.findall(r"(\w+)=('[^']*'|\S+)", said)},
    }


NO_VALUE = {"Ref": "AWS::NoValue"}


class NoPolicies:
    """The roles are written out, so SAM need not look up AWS's policies by their names."""

    def load(self):
        return {}


def deployed(parameters):
    """The template after SAM, with these parameters and all conditions resolved."""
    values = {name: str(parameters.get(name, PARAMETERS[name].get("Default", ""))) for name in PARAMETERS}
    values = {name: value.replace("True", "true").replace("False", "false") for name, value in values.items()}
    template = json.loads(json.dumps(TEMPLATE))
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["CodeUri"] = "s3://bucket/code"
        if resource["Type"] == "AWS::Lambda::LayerVersion":
            resource["Properties"]["Content"] = {"S3Bucket": "bucket", "S3Key": "layer"}
    transformed = transform(template, values, NoPolicies())
    by_parameter = {name: MAKE.value_of(value, PARAMETERS[name]) for name, value in values.items()}
    template = MAKE.replaced({key: part for key, part in transformed.items() if key not in ("Parameters", "Rules")}, by_parameter)
    conditions = {name: MAKE.decide(condition, template["Conditions"]) for name, condition in template["Conditions"].items()}
    template = MAKE.without_what_cannot_be(template)
    # The conditions are resolved.
    for key in ("Conditions", "Mappings", "Metadata"):
        del template[key]
    return template, conditions, transformed


ALL = {name: deployed(parameters) for name, parameters in DEPLOYMENTS.items()}


class Template(unittest.TestCase):
    def test_each_condition_is_on_in_one_deployment_and_off_in_another(self):
        for condition in TEMPLATE["Conditions"]:
            seen = {conditions[condition] for _, conditions, _ in ALL.values()}
            self.assertEqual(seen, {True, False}, condition)

    def test_what_cloudformation_gets_is_clean(self):
        for name, (template, _, _) in ALL.items():
            with self.subTest(name):
                # A `Fn::Sub` whose parameters are already replaced is superfluous.
                config = cfnlint.api.ManualArgs(regions=["us-east-1"], ignore_checks=["W1020"])
                found = cfnlint.api.lint(json.dumps(template), config=config)
                self.assertEqual([f"{match.rule.id} {match.path} {match.message}" for match in found], [])

    def test_a_release_asks_three_questions_and_its_templates_are_clean(self):
        full = MAKE.pointed_at_zips(TEMPLATE, "arm64")
        few = MAKE.with_few_parameters(full)
        self.assertEqual(list(few["Parameters"]), ["BucketCreatePrincipals", "MegaphoneUrl", "MegaphoneApiKeyArn"])
        for template in (full, few):
            config = cfnlint.api.ManualArgs(regions=["us-east-1"], ignore_checks=[])
            found = cfnlint.api.lint(json.dumps(template), config=config)
            self.assertEqual([f"{match.rule.id} {match.path} {match.message}" for match in found], [])
        for name, profile in PROFILES.items():
            if name != "version":
                parameters = profile["deploy"]["parameters"]
                there = few if parameters["template_file"].startswith("template-") else full
                said = re.findall(r"(?:^| )(\w+)=", parameters.get("parameter_overrides", ""))
                self.assertLessEqual(set(said), set(there["Parameters"]), name)

    def test_each_parameter_is_asked_for_in_one_group_and_used(self):
        groups = TEMPLATE["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
        listed = [parameter for group in groups for parameter in group["Parameters"]]
        self.assertEqual(sorted(listed), sorted(PARAMETERS))
        text = json.dumps({key: part for key, part in TEMPLATE.items() if key not in ("Parameters", "Metadata", "Rules")})
        for name in PARAMETERS:
            self.assertTrue(f'"Ref": "{name}"' in text or "${" + name + "}" in text, name)

    def test_whatever_functions_depend_on_has_them_published_anew_when_it_is_another(self):
        """CloudFormation asks for the settings again only if a property of `Settings` changes. Their digest gives each
        function a new version."""
        asked = mentioned(TEMPLATE["Resources"]["Settings"]["Properties"]["Parameters"])
        functions = [part for part in TEMPLATE["Resources"].values() if part["Type"] == "AWS::Serverless::Function"]
        kept = [TEMPLATE["Globals"]["Function"], *(function["Properties"] for function in functions)]
        # A version does not keep these.
        others = ("ReservedConcurrentExecutions", "Tags", "DeploymentPreference", "Role", "Events", "LoggingConfig")
        of_functions = mentioned([{key: part for key, part in one.items() if key not in others} for one in kept])
        of_functions |= {"LogLevel"}
        self.assertLessEqual(of_functions - {"AWS::NoValue", "Settings"}, asked)

    def test_all_functions_that_serve_wait_for_the_settings(self):
        for template, _, _ in ALL.values():
            for name, resource in template["Resources"].items():
                if resource["Type"] == "AWS::Lambda::Function" and name != "Check":
                    variables = resource["Properties"]["Environment"]["Variables"]
                    self.assertEqual(variables["SETTINGS"], {"Fn::GetAtt": ["Settings", "Digest"]}, name)
                if resource["Type"] == "AWS::Lambda::Version" and not name.startswith("Check"):
                    self.assertEqual(resource["Properties"]["Description"], {"Fn::GetAtt": ["Settings", "Digest"]}, name)

    def test_lambda_leaves_no_line_of_a_log_out(self):
        """Lambda takes a line without a time for INFO. A higher level would drop metrics, and errors that alarms count."""
        for template, _, _ in ALL.values():
            for name, resource in template["Resources"].items():
                if resource["Type"] == "AWS::Lambda::Function":
                    properties = resource["Properties"]
                    self.assertEqual(properties["LoggingConfig"]["ApplicationLogLevel"], "TRACE", name)

    def test_the_level_of_the_log_is_that_of_our_own_lines(self):
        """At TRACE the SDK's lines have what it read: records, and the hashes of passwords."""
        levels = TEMPLATE["Globals"]["Function"]["Environment"]["Variables"]["RUST_LOG"]["Fn::Sub"].split(",")
        levels = dict(level.split("=") for level in levels if "=" in level) | {"": levels[0]}
        ours = ("kinto_serverless", "request.summary")
        self.assertEqual({name for name, level in levels.items() if level == "${LogLevel}"}, set(ours))
        self.assertEqual({level for name, level in levels.items() if name not in ours}, {"warn", "info"})
        targets = re.findall(r'const TARGET: &str = "(.+?)"', "".join(
            path.read_text() for path in (ROOT / "lib" / "src").rglob("*.rs")))
        self.assertEqual(targets, ["request.summary"])

    def test_a_gradual_deployment_shifts_the_alias_and_goes_back_by_alarms(self):
        """Decision 26 cites AWS's documentation of it; the emulator has no CodeDeploy."""
        template, _, _ = ALL["all that a stack may have"]
        resources = template["Resources"]
        ring = ["DEPLOYMENT_FAILURE", "DEPLOYMENT_STOP_ON_ALARM", "DEPLOYMENT_STOP_ON_REQUEST"]
        functions = ["Api", "ChangesAggregator", "Broadcaster", "Notifier"]
        for function in functions:
            policy = resources[f"{function}Aliaslive"]["UpdatePolicy"]["CodeDeployLambdaAliasUpdate"]
            self.assertEqual(policy["DeploymentGroupName"], {"Ref": f"{function}DeploymentGroup"})
            group = resources[f"{function}DeploymentGroup"]["Properties"]
            self.assertEqual(group["AutoRollbackConfiguration"], {"Enabled": True, "Events": ring})
            self.assertIn("Canary10Percent5Minutes", json.dumps(group["DeploymentConfigName"]))
            alarms = [alarm["Name"]["Ref"] for alarm in group["AlarmConfiguration"]["Alarms"]]
            self.assertIn(f"{function}ErrorsAlarm", alarms)
            # All versions together: the errors of a new version ring it although only a tenth of the requests reach it.
            watched = resources[f"{function}ErrorsAlarm"]["Properties"]["Dimensions"]
            self.assertEqual(watched, [{"Name": "FunctionName", "Value": {"Ref": function}}])
        self.assertNotIn("UpdatePolicy", json.dumps(ALL["defaults"][0]))
        self.assertNotIn("UpdatePolicy", resources["CheckAliaslive"])

    def test_whoever_invokes_a_function_invokes_its_alias(self):
        for deployment, (template, _, _) in ALL.items():
            resources = template["Resources"]
            for name, resource in resources.items():
                properties = resource.get("Properties", {})
                if resource["Type"] == "AWS::Lambda::EventSourceMapping":
                    self.assertRegex(json.dumps(properties["FunctionName"]), "Aliaslive", name)
                if resource["Type"] == "AWS::Lambda::Permission":
                    self.assertRegex(json.dumps(properties["FunctionName"]), "Aliaslive", name)
                if resource["Type"] == "AWS::ApiGatewayV2::Integration":
                    self.assertRegex(json.dumps(properties["IntegrationUri"]), "Aliaslive", name)
                if resource["Type"] == "AWS::Lambda::Url":
                    self.assertEqual(properties["Qualifier"], "live", name)

    def test_gradual_deployments_go_back_by_alarms_and_others_need_no_codedeploy(self):
        for name, (template, _, _) in ALL.items():
            groups = [
                resource
                for resource in template["Resources"].values()
                if resource["Type"] == "AWS::CodeDeploy::DeploymentGroup"
            ]
            gradual = DEPLOYMENTS[name].get("Deployment", "AllAtOnce") != "AllAtOnce"
            self.assertEqual(len(groups), 4 if gradual else 0, name)
            for group in groups:
                alarms = group["Properties"]["AlarmConfiguration"]["Alarms"]
                self.assertTrue(alarms, name)

    def test_nobody_may_delete_items_and_the_schedule_says_what_a_sweep_may_take(self):
        for name, (template, conditions, _) in ALL.items():
            roles = json.dumps([part for part in template["Resources"].values() if part["Type"] == "AWS::IAM::Role"])
            self.assertNotIn("dynamodb:DeleteItem", roles)
            self.assertEqual("dynamodb:Scan" in roles, conditions["Sweeps"], name)
            self.assertEqual("SweepSchedule" in template["Resources"], conditions["Sweeps"], name)
            if conditions["Sweeps"]:
                (target,) = template["Resources"]["SweepSchedule"]["Properties"]["Targets"]
                said = target["Input"]
                said = said["Fn::Sub"] if isinstance(said, dict) else said
                said = said if isinstance(said, str) else said[0]
                asked = json.loads(re.sub(r"\$\{\w+\}", "1", said))
                self.assertEqual(set(asked["sweep"]), {"units", "tombstone-days"})

    def test_nobody_reaches_table_stream_and_queues_without_tls(self):
        template, _, _ = ALL["defaults"]
        table = template["Resources"]["Table"]["Properties"]
        queues = template["Resources"]["QueuesTlsOnly"]["Properties"]
        policies = [table["ResourcePolicy"], table["StreamSpecification"]["ResourcePolicy"], queues]
        for policy in policies:
            (statement,) = policy["PolicyDocument"]["Statement"]
            self.assertEqual((statement["Effect"], statement["Principal"]), ("Deny", "*"))
            self.assertEqual(statement["Condition"], {"Bool": {"aws:SecureTransport": "false"}})
        for template, _, _ in ALL.values():
            all_queues = {name for name, part in template["Resources"].items() if part["Type"] == "AWS::SQS::Queue"}
            if policy := template["Resources"].get("QueuesTlsOnly"):
                self.assertEqual({queue["Ref"] for queue in policy["Properties"]["Queues"]}, all_queues)

    def test_the_api_alone_signs_with_the_keys_in_kms_and_does_nothing_else_with_them(self):
        keys = [f"arn:aws:kms:{ACCOUNT}:key/1", f"arn:aws:kms:{ACCOUNT}:key/2"]
        template, _, _ = ALL["all that a stack may have"]
        for name, resource in template["Resources"].items():
            for policy in resource.get("Properties", {}).get("Policies", []):
                for statement in policy["PolicyDocument"]["Statement"]:
                    if "kms:" in json.dumps(statement["Action"]):
                        self.assertEqual((name, statement["Action"], statement["Resource"]), ("ApiRole", "kms:Sign", keys))
        self.assertIn("kms:Sign", json.dumps(template["Resources"]["ApiRole"]))
        self.assertNotIn("kms:", json.dumps(ALL["defaults"][0]["Resources"]["ApiRole"]))

    def test_the_schedule_sends_the_event_that_the_api_is_tested_with(self):
        template, _, _ = ALL["all that a stack may have"]
        (target,) = template["Resources"]["RefreshSignatures"]["Properties"]["Targets"]
        event = json.loads((ROOT / "events" / "refresh-signatures.json").read_text())
        sent = json.dumps(target["Input"]).replace("${RefreshSignatureDays}", "7")
        self.assertIn(json.dumps(json.dumps(event, separators=(",", ":"))), sent)

    def test_everybody_may_fetch_chains_by_their_names_and_do_nothing_else(self):
        template, _, _ = ALL["all that a stack may have"]
        allowed, denied = template["Resources"]["ChainBucketPolicy"]["Properties"]["PolicyDocument"]["Statement"]
        self.assertEqual((allowed["Effect"], allowed["Principal"], allowed["Action"]), ("Allow", "*", "s3:GetObject"))
        self.assertIn("/*.pem", json.dumps(allowed["Resource"]))
        self.assertEqual((denied["Effect"], denied["Condition"]), ("Deny", {"Bool": {"aws:SecureTransport": "false"}}))

    def test_operators_find_each_alarm_and_read_of_no_other(self):
        page = (ROOT / "docs" / "operations.md").read_text()
        named = set(re.findall(r"^\| `(\w+)Alarm`", page, re.MULTILINE))
        there = {name for name, part in TEMPLATE["Resources"].items() if part["Type"] == "AWS::CloudWatch::Alarm"}
        self.assertEqual({f"{name}Alarm" for name in named}, there)

    def test_each_alarm_tells_the_topic_and_is_on_the_dashboard(self):
        for name, (template, conditions, _) in ALL.items():
            resources = template["Resources"]
            alarms = {one for one, part in resources.items() if part["Type"] == "AWS::CloudWatch::Alarm"}
            shown = set(re.findall(r"\{(\w+Alarm)\.Arn\}", json.dumps(resources["Dashboard"])))
            self.assertEqual(shown, alarms, name)
            for alarm in alarms:
                told = [action for action in resources[alarm]["Properties"]["AlarmActions"] if action != NO_VALUE]
                self.assertEqual(bool(told), conditions["HasAlarmTopic"], alarm)

    def test_each_alarm_rings_by_its_metric_and_not_without_cause(self):
        """The alarms of a stack with everything, which tests/e2e does not deploy."""
        import ringing

        seen = set()
        for name in ("defaults", "all that a stack may have"):
            quiet, rung, there = ringing.rung(ALL[name][0]["Resources"])
            self.assertEqual((quiet, rung), ([], there), name)
            seen |= set(there)
        alarms = {name for name, part in TEMPLATE["Resources"].items() if part["Type"] == "AWS::CloudWatch::Alarm"}
        self.assertEqual(seen, alarms)

    def test_alarms_on_logs_look_for_what_the_functions_log_as_errors(self):
        """A changed word in the code, or a level that `LogLevel` can leave out, would silence an alarm."""
        code = "".join(path.read_text() for path in (ROOT / "lib" / "src").rglob("*.rs"))
        errors = " ".join(re.findall(r"tracing::error!\((.*?)\);", code, re.DOTALL))
        filters = [part for part in TEMPLATE["Resources"].values() if part["Type"] == "AWS::Logs::MetricFilter"]
        for words in {words for part in filters for words in re.findall('"([^"]+)"', part["Properties"]["FilterPattern"])}:
            self.assertIn(words, errors if words != "ERROR" else "ERROR")

    def test_each_queue_and_each_mapping_has_an_alarm(self):
        """Messages that wait, messages that are given up, and a stream that nobody reads."""
        template, _, _ = ALL["all that a stack may have"]
        resources = template["Resources"]
        watched = json.dumps([part for part in resources.values() if part["Type"] == "AWS::CloudWatch::Alarm"])
        for name, part in resources.items():
            if part["Type"] == "AWS::SQS::Queue":
                self.assertIn(f'{{"Fn::GetAtt": ["{name}", "QueueName"]}}', watched)
            if part["Type"] == "AWS::Lambda::EventSourceMapping" and "Queue" not in name:
                self.assertEqual(part["Properties"]["MetricsConfig"], {"Metrics": ["EventCount"]}, name)
                self.assertIn(f'{{"Ref": "{name}"}}', watched)
            if part["Type"] == "AWS::Events::Rule":
                self.assertIn(f'{{"Ref": "{name}"}}', watched)


def mentioned(part):
    """The names of parameters and resources in it, and of those that its conditions depend on."""
    if isinstance(part, dict):
        names = {part["Ref"]} if "Ref" in part else set()
        names |= {part["Fn::GetAtt"][0]} if "Fn::GetAtt" in part else set()
        condition = part.get("Condition") if isinstance(part.get("Condition"), str) else None
        condition = part["Fn::If"][0] if "Fn::If" in part else condition
        if condition in TEMPLATE["Conditions"]:
            names |= mentioned(TEMPLATE["Conditions"][condition])
        return names.union(*(mentioned(value) for value in part.values()))
    return set().union(*(mentioned(value) for value in part)) if isinstance(part, list) else set()


if __name__ == "__main__":
    unittest.main()
