PRAGMA application_id = 1902994803;
PRAGMA user_version = 4;
BEGIN TRANSACTION;
CREATE TABLE events (
    number INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    command TEXT NOT NULL,
    what TEXT NOT NULL,
    machine TEXT,
    revision INTEGER NOT NULL
) STRICT;
INSERT INTO "events" VALUES(1,1800000000,'init','mesh-made','control',1);
INSERT INTO "events" VALUES(2,1800000000,'invite','invited','machine-b',1);
INSERT INTO "events" VALUES(3,1800000005,'join','joined','machine-b',2);
INSERT INTO "events" VALUES(4,1800000000,'invite','invited','machine-c',2);
INSERT INTO "events" VALUES(5,1800000005,'join','joined','machine-c',3);
INSERT INTO "events" VALUES(6,1800000000,'invite','invited','machine-d',3);
INSERT INTO "events" VALUES(7,1800000020,'rotate-key','key-offered','machine-b',3);
INSERT INTO "events" VALUES(8,1800000021,'rotate-key','key-offered','machine-c',3);
INSERT INTO "events" VALUES(9,1800000040,'rotate-key','key-offered','machine-b',3);
INSERT INTO "events" VALUES(10,1800000041,'rotate-key','key-offered','machine-c',3);
INSERT INTO "events" VALUES(11,1800000060,'rotate-key','key-offered','machine-b',3);
INSERT INTO "events" VALUES(12,1800000061,'rotate-key','key-offered','machine-c',3);
INSERT INTO "events" VALUES(13,1800000080,'rotate-key','key-offered','machine-b',3);
INSERT INTO "events" VALUES(14,1800000081,'rotate-key','key-offered','machine-c',3);
INSERT INTO "events" VALUES(15,1800000100,'rotate-key','key-offered','machine-b',3);
INSERT INTO "events" VALUES(16,1800000101,'rotate-key','key-offered','machine-c',3);
INSERT INTO "events" VALUES(17,1800000120,'rotate-key','key-offered','machine-b',3);
INSERT INTO "events" VALUES(18,1800000121,'rotate-key','key-offered','machine-c',3);
INSERT INTO "events" VALUES(19,1800000200,'rotate-key','key-rotated','machine-c',4);
INSERT INTO "events" VALUES(20,1800000220,'rotate-key','key-offered','machine-c',4);
INSERT INTO "events" VALUES(21,1800000221,'rotate-key','key-rotated','machine-c',5);
INSERT INTO "events" VALUES(22,1800000240,'rotate-key','key-offered','machine-c',5);
INSERT INTO "events" VALUES(23,1800000241,'rotate-key','key-rotated','machine-c',6);
INSERT INTO "events" VALUES(24,1800000260,'rotate-key','key-offered','machine-c',6);
INSERT INTO "events" VALUES(25,1800000261,'rotate-key','key-rotated','machine-c',7);
INSERT INTO "events" VALUES(26,1800000280,'rotate-key','key-offered','machine-c',7);
INSERT INTO "events" VALUES(27,1800000281,'rotate-key','key-rotated','machine-c',8);
INSERT INTO "events" VALUES(28,1800000300,'rotate-key','key-offered','machine-c',8);
INSERT INTO "events" VALUES(29,1800000301,'rotate-key','key-rotated','machine-c',9);
INSERT INTO "events" VALUES(30,1800000320,'rotate-key','key-offered','machine-c',9);
INSERT INTO "events" VALUES(31,1800000321,'rotate-key','key-rotated','machine-c',10);
INSERT INTO "events" VALUES(32,1800000340,'rotate-key','key-offered','machine-c',10);
INSERT INTO "events" VALUES(33,1800000341,'rotate-key','key-rotated','machine-c',11);
INSERT INTO "events" VALUES(34,1800000360,'rotate-key','key-offered','machine-c',11);
INSERT INTO "events" VALUES(35,1800000361,'rotate-key','key-rotated','machine-c',12);
INSERT INTO "events" VALUES(36,1800000380,'rotate-key','key-offered','machine-c',12);
INSERT INTO "events" VALUES(37,1800000381,'rotate-key','key-rotated','machine-c',13);
INSERT INTO "events" VALUES(38,1800000400,'rotate-key','key-offered','machine-c',13);
INSERT INTO "events" VALUES(39,1800000401,'rotate-key','key-rotated','machine-c',14);
INSERT INTO "events" VALUES(40,1800000420,'rotate-key','key-offered','machine-c',14);
INSERT INTO "events" VALUES(41,1800000421,'rotate-key','key-rotated','machine-c',15);
INSERT INTO "events" VALUES(42,1800000440,'rotate-key','key-offered','machine-c',15);
INSERT INTO "events" VALUES(43,1800000441,'rotate-key','key-rotated','machine-c',16);
INSERT INTO "events" VALUES(44,1800000460,'rotate-key','key-offered','machine-c',16);
INSERT INTO "events" VALUES(45,1800000461,'rotate-key','key-rotated','machine-c',17);
INSERT INTO "events" VALUES(46,1800000480,'rotate-key','key-offered','machine-c',17);
INSERT INTO "events" VALUES(47,1800000481,'rotate-key','key-rotated','machine-c',18);
INSERT INTO "events" VALUES(48,1800000500,'rotate-key','key-offered','machine-c',18);
INSERT INTO "events" VALUES(49,1800000501,'rotate-key','key-rotated','machine-c',19);
INSERT INTO "events" VALUES(50,1800000520,'rotate-key','key-offered','machine-c',19);
INSERT INTO "events" VALUES(51,1800000521,'rotate-key','key-rotated','machine-c',20);
INSERT INTO "events" VALUES(52,1800000540,'rotate-key','key-offered','machine-c',20);
INSERT INTO "events" VALUES(53,1800000541,'rotate-key','key-rotated','machine-c',21);
INSERT INTO "events" VALUES(54,1800000560,'rotate-key','key-offered','machine-c',21);
INSERT INTO "events" VALUES(55,1800000561,'rotate-key','key-rotated','machine-c',22);
INSERT INTO "events" VALUES(56,1800000580,'rotate-key','key-offered','machine-c',22);
INSERT INTO "events" VALUES(57,1800000581,'rotate-key','key-rotated','machine-c',23);
INSERT INTO "events" VALUES(58,1800000600,'rotate-key','key-offered','machine-c',23);
INSERT INTO "events" VALUES(59,1800000601,'rotate-key','key-rotated','machine-c',24);
CREATE TABLE invitations (
    identifier TEXT PRIMARY KEY NOT NULL,
    machine TEXT NOT NULL,
    secret BLOB,
    expires_at INTEGER NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('open', 'redeemed', 'withdrawn', 'expired')),
    redeemed_by TEXT,
    CHECK ((outcome = 'redeemed') = (redeemed_by IS NOT NULL))
) STRICT;
INSERT INTO "invitations" VALUES('c3c9bbdd8cf99bb6eefe19d80a6bee41','machine-b',NULL,1800086400,'redeemed','AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=');
INSERT INTO "invitations" VALUES('e869387b693b630c56055c503449b05c','machine-c',NULL,1800086400,'redeemed','AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAs=');
INSERT INTO "invitations" VALUES('c736c73691dc1c9b92bae42b3ed69a33','machine-d',X'5C81031F85F8A4779DF04370AB18E129C64FF9A3A246D59DB16265C3812B8BD8',1800086400,'open',NULL);
CREATE TABLE machines (
    name TEXT PRIMARY KEY NOT NULL,
    public_key TEXT NOT NULL UNIQUE,
    address TEXT NOT NULL UNIQUE,
    place INTEGER UNIQUE,
    workers INTEGER CHECK (workers BETWEEN 1 AND 65535),
    state TEXT NOT NULL CHECK (state IN ('active', 'paused', 'invited')),
    endpoints TEXT NOT NULL,
    preshared_key TEXT,
    acknowledged INTEGER NOT NULL DEFAULT 0,
    CHECK ((state = 'invited') = (place IS NULL))
) STRICT;
INSERT INTO "machines" VALUES('control','AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAIyg=','10.77.0.1',1,3,'active','[{"host":"203.0.113.5","port":51820},{"host":"2001:db8::5","port":51821}]',NULL,0);
INSERT INTO "machines" VALUES('machine-b','AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=','10.77.0.2',2,2,'active','[]','X5U1JshbQTI5MPD3CtvJjIo90x8Ujqsd3ligNQQo03s=',2);
INSERT INTO "machines" VALUES('machine-c','AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE8=','10.77.0.3',3,2,'active','[]','UvuSwaZmhP4p59hdzxzoUJJ74wKOJAKLgdYVc0QKgA8=',3);
INSERT INTO "machines" VALUES('machine-d','ytOufyXo361LGpZZJTOP0fchODJUQe/HRzoFYOVuYUY=','10.77.0.4',NULL,2,'invited','[]','2kxYjp2bGz5BObylQuHXlYHbJl7GetTA7Hdm57sFmLM=',0);
CREATE TABLE mesh (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    mesh TEXT NOT NULL,
    network TEXT NOT NULL,
    control TEXT NOT NULL REFERENCES machines (name) DEFERRABLE INITIALLY DEFERRED,
    node TEXT NOT NULL,
    base_port INTEGER NOT NULL,
    service_port INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    p2p_base_port INTEGER,
    stream TEXT NOT NULL DEFAULT 'tunnel',
    master_proxy INTEGER NOT NULL DEFAULT FALSE,
    restart INTEGER NOT NULL DEFAULT FALSE
) STRICT;
INSERT INTO "mesh" VALUES(1,'0123456789abcdef','10.77.0.0/20','control','2.0',40000,51820,24,NULL,'tunnel',0,0);
CREATE TABLE resting (
    address TEXT PRIMARY KEY NOT NULL,
    revision INTEGER NOT NULL
) STRICT;
CREATE TABLE stand_ins (
    public_key TEXT PRIMARY KEY NOT NULL,
    machine TEXT NOT NULL REFERENCES machines (name) ON DELETE CASCADE,
    address TEXT UNIQUE,
    preshared_key TEXT,
    invitation TEXT UNIQUE REFERENCES invitations (identifier),
    CHECK ((address IS NULL) = (invitation IS NULL))
) STRICT;
INSERT INTO "stand_ins" VALUES('AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAABk=','machine-b',NULL,'X5U1JshbQTI5MPD3CtvJjIo90x8Ujqsd3ligNQQo03s=',NULL);
CREATE TABLE succession (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    successor TEXT NOT NULL REFERENCES machines (name),
    holds INTEGER NOT NULL DEFAULT 0,
    silent TEXT NOT NULL DEFAULT '[]',
    said_at INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE UNIQUE INDEX one_open_invitation ON invitations (machine) WHERE outcome = 'open';
CREATE UNIQUE INDEX one_next_key ON stand_ins (machine) WHERE invitation IS NULL;
CREATE TRIGGER machine_is_one BEFORE INSERT ON machines
WHEN EXISTS (SELECT 1 FROM stand_ins WHERE NEW.address IS address OR NEW.public_key IS public_key)
    OR EXISTS (SELECT 1 FROM resting WHERE address = NEW.address)
BEGIN SELECT RAISE(ABORT, 'the address or key is in use, or the address rests'); END;
CREATE TRIGGER stand_in_is_one BEFORE INSERT ON stand_ins
WHEN EXISTS (SELECT 1 FROM machines WHERE NEW.address IS address OR NEW.public_key IS public_key)
    OR EXISTS (SELECT 1 FROM resting WHERE address = NEW.address)
BEGIN SELECT RAISE(ABORT, 'the address or key is in use, or the address rests'); END;
COMMIT;
