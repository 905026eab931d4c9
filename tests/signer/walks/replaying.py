"""Repeats a walk on ours: the answers and the state must be the same."""

from looking import Looking, told


class Difference(Exception):
    """A difference between the two servers."""


def replay(server, public_key, walk):
    """Sends ours the requests that the real signer got. Raises the first difference."""
    server.send("POST", "/__flush__", "alice")
    looking = Looking(server, public_key, walk["bucket"])
    done = []
    for step in walk["steps"]:
        done.append(step["name"])
        where = f"walk {walk['seed']} ({walk['bucket']}), at the end of {' '.join(done)}"
        for request in step["requests"]:
            body = request.get("body")
            answer = server.send(request["method"], request["path"], request["user"], body)
            if told(answer) != request["told"]:
                sent = f"{request['method']} {request['path']} by {request['user']} {body}"
                raise Difference(f"{where}: {sent}: {request['told']} and {answer}")
        seen = step["seen"]
        ours = looking.at_all(step.get("left_out", ())) if len(seen) > 1 else looking.at_source()
        for name in seen:
            if ours[name] != seen[name]:
                raise Difference(f"{where}: {name}: {seen[name]} and {ours[name]}")
