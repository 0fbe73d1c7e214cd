# What teachers can make; the main Makefile reads this file where it is.
TEST_ALSO += instructor/solutions
.PHONY: exercises verify handout instructor grade sandbox

exercises: $(INSTALLED)  ## Derive notebooks and self-checks from the exercises' sources, and run them
	@$(BIN)/python -m instructor.build write
	@$(quiet_threads) $(BIN)/python tools/notebooks.py run book/exercises/*.ipynb instructor/solutions/*.ipynb

verify: $(INSTALLED)  ## Prove the exercises' tests: right answers pass, wrong ones fail (SEEDS=20)
	@$(quiet_threads) env -u TQDM_DISABLE $(BIN)/python -m instructor.verify --seeds $(or $(SEEDS),20) $(ARGS)

handout: $(INSTALLED)  ## Write what students get (CHAPTER=3 or EXERCISES=3.1,3.4; COHORT=name) to _build/handout
	@$(BIN)/python -m instructor.build handout $(if $(CHAPTER),--chapter $(CHAPTER)) \
	  $(if $(EXERCISES),--exercises $(EXERCISES)) $(if $(COHORT),--cohort "$(COHORT)") $(if $(OUT),--out "$(OUT)")

instructor: $(INSTALLED)  ## Write what stays with teachers (COHORT=name) to _build/instructor: solutions, nbgrader course
	@$(BIN)/python -m instructor.build teachers $(if $(COHORT),--cohort "$(COHORT)") $(if $(OUT),--out "$(OUT)")

grade: $(INSTALLED) sandbox  ## Grade a folder of notebooks: SUBMISSIONS=folder [CHAPTER=3] [COHORT=name] [OUT=folder]
	@test -n "$(SUBMISSIONS)" || { echo "usage: make grade SUBMISSIONS=folder [CHAPTER=3 | EXERCISES=3.1,3.4] [COHORT=name] [OUT=folder] [SEED=n]" >&2; exit 2; }
	@env -u TQDM_DISABLE $(BIN)/python -m instructor.grader "$(SUBMISSIONS)" $(if $(CHAPTER),--chapter $(CHAPTER)) \
	  $(if $(EXERCISES),--exercises $(EXERCISES)) $(if $(COHORT),--cohort "$(COHORT)") $(if $(OUT),--out "$(OUT)") $(if $(SEED),--seed $(SEED)) $(ARGS)

# Answers are run apart from the tests; see instructor/grader/sandbox.py.
sandbox: $(INSTALLED)
	@command -v bwrap >/dev/null || [ "$$(uname)" != Linux ] || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "==> no bubblewrap yet: apt-get install bubblewrap"; apt-get update -qq && apt-get install -y -qq bubblewrap; \
	  else echo "make: grading needs bubblewrap, and it is not here: sudo apt-get install -y bubblewrap" >&2; exit 1; fi; }

test: sandbox
