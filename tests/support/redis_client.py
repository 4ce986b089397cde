"""A program as people write it for redis-py; prints what it gets, so that two servers can be compared."""

import sys

import redis

for protocol in (2, 3):
    r = redis.Redis(port=int(sys.argv[1]), protocol=protocol, decode_responses=True)
    print(r.ping(), r.flushall())
    print(r.set("s", "v", ex=100), r.get("s"), r.ttl("s"), r.set("s", "w", nx=True), r.getdel("s"))
    print(r.incr("n"), r.incrbyfloat("f", 1.5), r.mset({"a": 1, "b": 2}), r.mget("a", "b", "missing"))
    print(r.hset("h", mapping={"f": 1, "g": 2}), sorted(r.hgetall("h").items()), r.hincrby("h", "f", 5))
    print(r.sadd("set", "x", "y"), sorted(r.smembers("set")), r.sismember("set", "x"))
    print(r.rpush("l", 1, 2, 3), r.lrange("l", 0, -1), r.lmove("l", "m"), r.lpop("l", 2))
    print(r.zadd("z", {"a": 1, "b": 2.5}), r.zrange("z", 0, -1, withscores=True), r.zincrby("z", 1, "a"), r.zpopmin("z"))
    print(r.xadd("x", {"f": "v"}, id="1-1"), r.xrange("x"), r.xread({"x": 0}), r.xlen("x"))
    with r.pipeline(transaction=True) as pipe:
        print(pipe.set("p", 1).rpush("q", 1).zadd("w", {"m": 1}).get("p").execute())
    with r.pipeline(transaction=False) as pipe:
        for number in range(500):
            pipe.set(f"many:{number}", number)
        print(sum(pipe.execute()))

    def move(pipe):
        value = int(pipe.get("p"))
        pipe.multi()
        pipe.set("p", value + 1)

    print(r.transaction(move, "p"), r.get("p"))
    with r.pipeline() as pipe:
        pipe.watch("p")
        r.set("p", "changed")
        pipe.multi()
        pipe.set("p", "lost")
        try:
            print(pipe.execute())
        except redis.WatchError:
            print("watch error", r.get("p"))
    print(len(list(r.scan_iter(count=100))), len(list(r.scan_iter(match="many:1*"))), r.dbsize())
    print(sorted(r.hscan_iter("h")), sorted(r.sscan_iter("set")), r.type("l"), r.expire("l", 10), r.persist("l"))
    print(r.client_setname("me"), r.client_getname(), r.config_get("nosuch"), r.info("server")["redis_mode"])
    for call in (lambda: r.lpush("n", 1), lambda: r.execute_command("NOSUCH"), lambda: r.execute_command("GET")):
        try:
            print(call())
        except redis.ResponseError as error:
            print(type(error).__name__, error)
