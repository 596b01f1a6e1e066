"""A peer of `cargo bench -- peers`: posts new audit events with Python's own library.

The cursor is the newest timestamp that was posted, with the IDs of the events that have it. It is saved
after each batch.
"""

import datetime
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request

CURSOR = "cursor.json"


def request(url, body=None, **headers):
    """Returns the answer's body. Tries again twice if the server is busy."""
    for wait in (1, 2, None):
        try:
            asked = urllib.request.Request(url, data=body, headers=headers)
            with urllib.request.urlopen(asked, timeout=30) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            if wait is None or error.code != 429 and error.code < 500:
                raise
            time.sleep(wait)


def read_all(since):
    """Returns the events of all pages by ID, since an event can be on two pages."""
    events, page = {}, 1
    while page:
        query = {"page[number]": page, "page[size]": 1000}
        if since:
            query["since"] = since
        url = os.environ["ENDPOINT"] + "/api/v2/organization/audit-trail?" + urllib.parse.urlencode(query)
        answer = json.loads(request(url, Authorization="Bearer " + os.environ["TFC_ORG_TOKEN"]))
        events.update((event["id"], event) for event in answer["data"])
        page = answer["pagination"]["next_page"]
    return events.values()


def second_before(timestamp):
    """Returns the time from which events of this very time are listed again."""
    time = datetime.datetime.strptime(timestamp, "%Y-%m-%dT%H:%M:%S.%fZ")
    before = time - datetime.timedelta(seconds=1)
    return before.isoformat(timespec="milliseconds") + "Z"


def main():
    cursor = {"newest": "", "ids": []}
    if os.path.exists(CURSOR):
        with open(CURSOR) as file:
            cursor = json.load(file)
    since = second_before(cursor["newest"]) if cursor["newest"] else None
    new = [
        event
        for event in read_all(since)
        if event["timestamp"] >= cursor["newest"] and event["id"] not in cursor["ids"]
    ]
    new.sort(key=lambda event: event["timestamp"])
    for start in range(0, len(new), 1000):
        batch = new[start : start + 1000]
        body = "".join(json.dumps(event) + "\n" for event in batch).encode()
        request(os.environ["RECEIVER"], body, **{"Content-Type": "application/x-ndjson"})
        newest = batch[-1]["timestamp"]
        ids = cursor["ids"] if newest == cursor["newest"] else []
        ids += [event["id"] for event in batch if event["timestamp"] == newest]
        cursor = {"newest": newest, "ids": ids}
        with open(CURSOR + ".tmp", "w") as file:
            json.dump(cursor, file)
        os.replace(CURSOR + ".tmp", CURSOR)


main()
