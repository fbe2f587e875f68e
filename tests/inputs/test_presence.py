"""Loose images on S3 are checked by listings where these are short, and one by one elsewhere."""

from __future__ import annotations

from servers import FaultProxy, S3Server, both_servers

from pipeline.inputs.presence import find_present


@both_servers
def test_neighbours_are_listed_and_keys_far_apart_looked_at(s3: S3Server, fault_proxy: FaultProxy):
    bucket = s3.bucket()
    for number in range(60):
        s3.put(bucket, f"p/{number:02d}.jpg", b"x")
    storage, prefix = s3.storage(s3_endpoint=fault_proxy.endpoint), f"s3://{bucket}/p/"
    entries = list(storage.list(prefix))
    s3.put(bucket, "p/11.jpg", b"changed")
    s3.client.delete_object(Bucket=bucket, Key="p/12.jpg")

    for planned, methods in ((entries[10:20], {"HEAD": 1, "GET": 1}), (entries[::30], {"HEAD": 2, "GET": 1})):
        fault_proxy.requests.clear()
        now = find_present(planned, prefix, storage)
        found = [request.method for request in fault_proxy.requests]
        assert {method: found.count(method) for method in set(found)} == methods
        for entry in planned:
            name = entry.uri.rpartition("/")[2]
            if name == "12.jpg":
                assert entry.uri not in now
            elif name == "11.jpg":
                assert now[entry.uri].etag != entry.etag
            else:
                assert (now[entry.uri].size_bytes, now[entry.uri].etag) == (entry.size_bytes, entry.etag)
