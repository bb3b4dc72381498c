/*
 * The protocol of docs/COHERENCE.md for one key: a version with a number and
 * two marks, a row, and for each process a copy in memory and a lane with a value that
 * waits. Process 0 may die at any step; its locks fall with it, its lane stays.
 *
 * A read lies when it gives write x, and some other write began after x had
 * ended, and ended before the read began.
 *
 * Each -DLEAVE_... leaves one step out. check.sh runs those that must be found
 * to lie; LEAVE_NUMBER, _DROP, _VERSION and _REPAIR need more than can be
 * searched through (the oracle in tests/proofs sees DROP).
 */
#define PROCESSES 3
#define WRITES    5 /* numbered from 1; 0 is what was there before */
#define NOTHING   15
#define NOBODY    7
#define NEVER     63

/* the version: one word, so each look or change is one step */
byte number; bit writing; bit behind;

/* the database: what is committed */
byte row = 0; byte row_seq = 0;
bit txn_open; /* `writing` in the shared file: a transaction is under way */

byte seq = 1;
byte lock = NOBODY; /* the writers' */
byte epoch = 0;

typedef process {
	bool dead;
	/* a copy in memory, and what it is stamped with */
	byte copy; byte copy_number; bit copy_writing; bit copy_behind; byte copy_epoch;
	/* the lane: a value on its way into it, and one that waits */
	bool adding;
	bool waits; byte value; byte value_number; byte value_seq; byte value_epoch;
}
process p[PROCESSES];

/* --- the oracle -------------------------------------------------------------- */

byte clock = 1;
byte began[WRITES + 1];
byte ended[WRITES + 1];
byte writes = 0;
/* the latest beginning of a write that has ended */
byte overwritten = 0;

inline write_begins(begun)
{
	atomic { writes++; begun = writes; began[begun] = clock; ended[begun] = NEVER; clock++ }
}

inline write_ends(done_id)
{
	atomic {
		ended[done_id] = clock; clock++;
		if
		:: began[done_id] > overwritten -> overwritten = began[done_id]
		:: else
		fi
	}
}

inline check(seen, before)
{
	assert(seen == NOTHING || ended[seen] >= before)
}

/* --- the writers' lock ---------------------------------------------------------- */

inline take_lock()
{
	atomic { lock == NOBODY -> lock = me };
#ifndef LEAVE_REPAIR
	if
	:: txn_open -> atomic { writing = 0; txn_open = 0 }
	:: else
	fi
#endif
}

inline drop_lock()
{
	lock = NOBODY
}

/* --- what waits becomes a row: by its owner or another, whether that lives or not ----------- */

/* Does anything wait for the slot, but what was just written? */
#define WAITS(lane) (p[lane].adding || p[lane].waits)

/* Under the lock. */
inline drain_locked(lane)
{
	if
	:: p[lane].waits ->
		txn_open = 1;
		atomic {
			drained_seq = p[lane].value_seq; drained = p[lane].value;
			drained_number = p[lane].value_number;
			if
#ifndef LEAVE_COMPARE
			:: number == p[lane].value_number && epoch == p[lane].value_epoch ->
#else
			:: true ->
#endif
				good = true
			:: else -> good = false
			fi
		};
#ifdef LEAVE_REAP
		good = good && !p[lane].dead;
#endif
		/* commit */
		atomic {
			if
			:: good -> row = drained; row_seq = drained_seq
#if !defined(LEAVE_DROP) && !defined(LEAVE_REAP)
			:: !good && row_seq <= drained_seq -> row = NOTHING
#endif
			:: else
			fi
		};
		txn_open = 0;
		/* after the commit, and only then; a later value may be there by now */
		atomic {
			if
			:: number == drained_number -> behind = 0
			:: number != drained_number && p[lane].value_seq == drained_seq &&
			   !p[lane].adding && !WAITS((lane + 1) % 3) && !WAITS((lane + 2) % 3) ->
				behind = 0
			:: else
			fi
		};
		atomic {
			if
			:: p[lane].value_seq == drained_seq -> p[lane].waits = false
			:: else
			fi
		}
	:: else
	fi
}

inline drain(lane)
{
	if
	:: p[lane].waits -> take_lock(); drain_locked(lane); drop_lock()
	:: else
	fi
}

/* What a dead process left unfinished, and a mark that is nobody's. */
inline look_for_stray()
{
	if
	:: p[0].dead -> p[0].adding = false
	:: else
	fi;
	atomic {
		if
		:: behind && !WAITS(0) && !WAITS(1) && !WAITS(2) -> behind = 0
		:: else
		fi
	}
}

inline settle()
{
	if
	:: behind -> drain(0); drain(1); look_for_stray()
	:: else
	fi
}

/* --- writing through: value NOTHING deletes ---------------------------------------- */

inline through(stored)
{
	take_lock();
	/* what came to wait since; once more would do the same */
	if
	:: behind -> drain_locked(0); drain_locked(1); look_for_stray()
	:: else
	fi;
	txn_open = 1;
	seq++;
	tx_seq = seq;
#ifndef LEAVE_MARK
	atomic { number++; writing = 1; tx_number = number };
#else
	atomic { writing = 1; tx_number = number };
#endif
	/* commit */
	atomic { row = stored; row_seq = tx_seq };
	atomic {
		writing = 0;
		if
#ifndef LEAVE_NUMBER
		:: number == tx_number && stored != NOTHING ->
#else
		:: stored != NOTHING ->
#endif
			p[me].copy = stored; p[me].copy_number = number; p[me].copy_writing = 0;
			p[me].copy_behind = behind; p[me].copy_epoch = epoch
		:: else -> p[me].copy = NOTHING
		fi
	};
	txn_open = 0;
	drop_lock()
}

#define IS_LATEST(lane) (p[lane].waits && p[lane].value_number == number)

/* --- writing behind --------------------------------------------------------------------- */

inline put_behind(waiting)
{
	tx_epoch = epoch;
	p[me].adding = true;
	atomic {
		if
		/* what waits is replaced, in whichever lane; a mark without it is somebody's */
		:: behind && !IS_LATEST(0) && !IS_LATEST(1) -> good = false
		:: else ->
			number++;
#ifndef LEAVE_BEHIND
			behind = 1;
#endif
			tx_number = number;
			at_writing = writing;
			good = true
		fi
	};
	if
	:: good ->
		atomic { seq++; tx_seq = seq };
		atomic {
			p[me].value = waiting; p[me].value_number = tx_number;
			p[me].value_seq = tx_seq; p[me].value_epoch = tx_epoch;
			p[me].waits = true; p[me].adding = false
		};
		atomic {
			p[me].copy = waiting; p[me].copy_number = tx_number;
			p[me].copy_writing = at_writing; p[me].copy_behind = 1;
			p[me].copy_epoch = tx_epoch
		}
	:: else ->
		p[me].adding = false;
		settle();
		through(waiting)
	fi
}

/* --- reading ------------------------------------------------------------------------------------ */

/* The value that waits under the version that was loaded. */
#ifndef LEAVE_VERSION
#define IS_FOUND(lane) (p[lane].waits && p[lane].value_number == at_number && \
	p[lane].value_epoch == at_epoch)
#else
#define IS_FOUND(lane) (p[lane].waits && p[lane].value_epoch == at_epoch)
#endif

inline get()
{
	since = overwritten;
	value = NOTHING;
	/* one load of the version, one of the epoch: a hit in memory */
	atomic {
		at_number = number; at_writing = writing; at_behind = behind
	};
	at_epoch = epoch;
	/* what waited when the copy was made may be a row by now */
	good = (p[me].copy != NOTHING && p[me].copy_number == at_number &&
	        p[me].copy_writing == at_writing && p[me].copy_behind >= at_behind &&
	        p[me].copy_epoch == at_epoch);
	if
	:: good -> value = p[me].copy
#ifndef LEAVE_LOOK
	:: !good && at_behind ->
		atomic {
			if
			:: IS_FOUND(0) -> value = p[0].value
			:: else ->
				if
				:: IS_FOUND(1) -> value = p[1].value
				:: else /* and miss */
				fi
			fi;
			p[me].copy = value;
			p[me].copy_number = at_number; p[me].copy_writing = at_writing;
			p[me].copy_behind = at_behind; p[me].copy_epoch = at_epoch
		}
	:: !good && !at_behind ->
#else
	:: !good ->
#endif
		value = row;
		/* what is kept carries what was loaded before */
		atomic {
			p[me].copy = value;
			p[me].copy_number = at_number; p[me].copy_writing = at_writing;
			p[me].copy_behind = at_behind; p[me].copy_epoch = at_epoch
		}
	fi;
	check(value, since)
}

/* --- clear: no row is left, and the epoch moves ---------------------------------------------------- */

inline clear()
{
	take_lock();
	atomic { row = NOTHING; seq++; row_seq = seq };
#ifndef LEAVE_EPOCH
	epoch = seq;
#endif
	drop_lock()
}

inline write_something()
{
	write_begins(id);
	if
	:: true -> settle(); through(id)
	:: true -> settle(); through(NOTHING)
	:: true -> put_behind(id)
	:: true -> clear()
	fi;
	write_ends(id)
}

/* --- processes ----------------------------------------------------------------------------------------- */

proctype writer(byte me; byte count)
{
	byte id, tx_number, tx_seq, tx_epoch, since, value, at_number, at_epoch;
	byte drained, drained_number, drained_seq;
	bit at_writing, at_behind;
	bool good;
	byte done = 0;

	{
		do
		:: done < count -> write_something(); done++
		:: done == count -> break
		od;
		if
		:: true -> get()
		:: true
		fi;
		drain(me)
	} unless {
		p[me].dead;
		atomic {
			p[me].copy = NOTHING;
			if
			:: lock == me -> lock = NOBODY
			:: else
			fi
		}
	}
}

proctype reader(byte me; byte count)
{
	byte id, tx_number, tx_seq, tx_epoch, since, value, at_number, at_epoch;
	byte drained, drained_number, drained_seq;
	bit at_writing, at_behind;
	bool good;

	do
	:: count > 0 ->
		/* who lists asks the rows, and has what waits written */
		if
		:: true -> settle()
		:: true
		fi;
		get();
		count--
	:: count == 0 -> break
	od
}

init
{
	atomic {
		p[0].copy = NOTHING; p[1].copy = NOTHING; p[2].copy = NOTHING;
		ended[0] = 0; row_seq = 1; seq = 1;
		run writer(0, FIRST);
		run writer(1, SECOND);
		run reader(2, READS)
	}
#ifdef DEATH
	/* at any step */
	if
	:: p[0].dead = true
	:: true
	fi
#endif
}
